/** A sound's waveform, which plays from the moment that matched. One sound plays at a time. */

import { itemAddress, request } from "./api.js";
import { button, clock, h } from "./grid.js";

const POINTS = 120;

/** @type {SoundWave | null} */
let playing = null;

export class SoundWave extends HTMLElement {
  // the grid may have set these before the element was upgraded
  /** @type {import("./api.js").Hit} */
  hit = this.hit;
  /** @type {import("./api.js").Search} */
  search = this.search;
  /** @type {number[]} from 0 to 1 */
  #peaks = [];
  #seconds = 0;
  /** @type {HTMLAudioElement | null} */
  #audio = null;
  #canvas = h("canvas", { "aria-hidden": "true" });
  #button = button("▶", () => this.toggle(), { class: "play", tabindex: -1 });
  #time = h("span", { class: "time" });
  #abort = new AbortController();

  connectedCallback() {
    this.#seconds = this.hit.metadata.seconds ?? 0;
    this.#button.setAttribute("aria-label", `Play from ${clock(this.start)}`);
    this.replaceChildren(this.#button, this.#canvas, this.#time);
    this.#canvas.addEventListener("click", (/** @type {MouseEvent} */ event) => {
      event.stopPropagation(); // it seeks; it does not open the hit
      this.#play((event.offsetX / this.#canvas.clientWidth) * this.#seconds);
    });
    this.#abort = new AbortController();
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    void this.#load();
  }

  disconnectedCallback() {
    this.#abort.abort();
    if (playing === this) playing = null;
    if (!this.#audio) return;
    this.#audio.pause();
    this.#audio.removeAttribute("src");
    this.#audio.load(); // else it keeps one of the few connections to the server
    this.#audio = null;
  }

  /** Where it plays from, in seconds. */
  get start() {
    return this.hit.span?.unit === "second" ? this.hit.span.start : 0;
  }

  /** Plays from the moment that matched, or pauses. */
  toggle() {
    if (this.playing !== null) this.pause();
    else this.#play(this.#audio?.currentTime ?? this.start);
  }

  pause() {
    this.#audio?.pause();
  }

  async #load() {
    try {
      const path = itemAddress(this.hit.id, "waveform", this.search, { points: POINTS });
      const { seconds, peaks } = await request(path, { signal: this.#abort.signal });
      this.#seconds = seconds;
      this.#peaks = peaks;
    } catch {
      // without a waveform it can still be played
    }
    this.#draw();
  }

  #play(/** @type {number} */ from) {
    if (playing !== this) playing?.pause();
    playing = this;
    if (!this.#audio) {
      this.#audio = new Audio(itemAddress(this.hit.id, "media", this.search));
      for (const event of ["timeupdate", "seeked", "play", "pause", "ended"]) {
        this.#audio.addEventListener(event, () => this.#draw());
      }
      this.#audio.addEventListener("error", () => {
        this.#time.textContent = "cannot be played here";
      });
    }
    this.#audio.currentTime = from;
    this.#audio.play().catch(() => {}); // the error event says so
  }

  /** The time that is played now, in seconds; null while it does not play. */
  get playing() {
    return this.#audio && !this.#audio.paused ? this.#audio.currentTime : null;
  }

  #draw() {
    const isPlaying = this.playing !== null;
    this.#button.textContent = isPlaying ? "❚❚" : "▶";
    this.#button.setAttribute("aria-label", isPlaying ? "Pause" : `Play from ${clock(this.start)}`);
    const at = this.#audio?.currentTime ?? this.start;
    this.#time.textContent = `${clock(at)} / ${clock(this.#seconds)}`;
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width || !this.#peaks.length) return;
    this.#canvas.width = width * devicePixelRatio;
    this.#canvas.height = height * devicePixelRatio;
    const context = this.#canvas.getContext("2d");
    context.scale(devicePixelRatio, devicePixelRatio);
    const plain = getComputedStyle(this.#canvas).color;
    const strong = getComputedStyle(this.#button).color;
    const { span } = this.hit;
    const step = width / this.#peaks.length;
    this.#peaks.forEach((peak, index) => {
      const second = (index / this.#peaks.length) * this.#seconds;
      const matched = span?.unit === "second" && second >= span.start && second <= span.end;
      context.fillStyle = matched ? strong : plain;
      const tall = Math.max(1, peak * height);
      context.fillRect(index * step, (height - tall) / 2, Math.max(1, step - 1), tall);
    });
    if (this.#audio) {
      context.fillStyle = getComputedStyle(this).color;
      context.fillRect((at / this.#seconds) * width, 0, 1.5, height);
    }
  }
}

customElements.define("sound-wave", SoundWave);
