/**
 * A hit opened full-screen: picture with zoom and pan, sound, video, text or document page; its
 * details, why it matched, and searches that start from it.
 *
 * @typedef {import("./api.js").Hit} Hit
 */

import { Search, itemAddress, request, thumbnailAddress } from "./api.js";
import { app } from "./app.js";
import {
  button,
  clock,
  formatNumber,
  dateOf,
  folderOf,
  h,
  highlight,
  spanText,
  nameOf,
  period,
  relativeFolder,
  wordsOf,
} from "./grid.js";
import { copy } from "./selection.js";

const MAX_SCALE = 12;

/** Radius of "nearby", in kilometres. */
const NEARBY_KM = 1;

/** Pixels that a finger has to move for the next hit. */
const SWIPE_PIXELS = 60;

const RANKINGS = { image: "picture", text: "text", audio: "sound", words: "words" };
const ORIGINS = {
  passage: "text",
  sidecar: "caption",
  caption: "caption",
  page: "page",
  ocr: "read in the picture",
  speech: "heard",
};

/** How numbers that photos tell of themselves are written. @type {Record<string, Function>} */
const WRITTEN = {
  aperture: (/** @type {number} */ value) => `f/${value}`,
  exposure: (/** @type {number} */ value) =>
    value < 0.3 ? `1/${Math.round(1 / value)} s` : `${value} s`,
  focal_length: (/** @type {number} */ value) => `${value} mm`,
};

// ---------- zoom

/** Zooms a picture by wheel, keys, double click or pinch, and pans it by dragging. */
class Zoom {
  #scale = 1;
  #x = 0;
  #y = 0;
  /** @type {Map<number, {x: number, y: number}>} */
  #pointers = new Map();
  #swiped = 0;

  /**
   * @param {HTMLElement} stage what the picture moves in
   * @param {HTMLImageElement} image
   * @param {{sharpen: () => void, swipe: (step: number) => void}} handlers
   *   sharpen: the picture is larger than its thumbnail now; swipe: to another hit
   */
  constructor(stage, image, { sharpen, swipe }) {
    this.stage = stage;
    this.image = image;
    this.sharpen = sharpen;
    const { signal } = (this.abort = new AbortController());
    const on = (/** @type {string} */ type, /** @type {(event: any) => void} */ listener) =>
      stage.addEventListener(type, listener, { signal });
    on("wheel", (event) => {
      event.preventDefault();
      this.by(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
    });
    on("dblclick", (event) => {
      if (event.target.closest("button")) return;
      if (this.#scale > 1) this.reset();
      else this.by(2.5, event.clientX, event.clientY);
    });
    on("pointerdown", (event) => {
      if (event.target.closest("button")) return; // a captured pointer would not click it
      stage.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      this.#swiped = 0;
    });
    on("pointermove", (event) => this.#drag(event));
    const end = (/** @type {PointerEvent} */ event) => {
      if (!this.#pointers.delete(event.pointerId)) return;
      const isSwipe = event.pointerType === "touch" && Math.abs(this.#swiped) > SWIPE_PIXELS;
      if (this.#scale === 1 && isSwipe) swipe(this.#swiped > 0 ? -1 : 1);
      this.#swiped = 0;
    };
    on("pointerup", end);
    on("pointercancel", (event) => this.#pointers.delete(event.pointerId));
  }

  #drag(/** @type {PointerEvent} */ event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.#pointers.set(event.pointerId, now);
    if (other) {
      const apart = (/** @type {{x: number, y: number}} */ point) =>
        Math.hypot(point.x - other.x, point.y - other.y);
      this.by(
        apart(now) / Math.max(1, apart(before)),
        (now.x + other.x) / 2,
        (now.y + other.y) / 2,
      );
    } else if (this.#scale > 1) {
      this.#x += now.x - before.x;
      this.#y += now.y - before.y;
      this.#apply();
    } else this.#swiped += now.x - before.x;
  }

  /**
   * Zooms.
   * @param {number} factor
   * @param {number=} clientX the point of the window that stays where it is; by default the middle
   * @param {number=} clientY
   */
  by(factor, clientX, clientY) {
    const scale = Math.min(MAX_SCALE, Math.max(1, this.#scale * factor));
    const { left, top, width, height } = this.stage.getBoundingClientRect();
    const x = (clientX ?? left + width / 2) - left - width / 2;
    const y = (clientY ?? top + height / 2) - top - height / 2;
    this.#x = x - ((x - this.#x) * scale) / this.#scale;
    this.#y = y - ((y - this.#y) * scale) / this.#scale;
    this.#scale = scale;
    if (scale > 1) this.sharpen();
    this.#apply();
  }

  reset() {
    this.#scale = 1;
    this.#apply();
  }

  #apply() {
    // no edge of the picture is dragged past the middle of the stage
    const limit = (/** @type {number} */ value, /** @type {number} */ side) => {
      const most = (side * (this.#scale - 1)) / 2;
      return Math.min(most, Math.max(-most, value));
    };
    this.#x = limit(this.#x, this.stage.clientWidth);
    this.#y = limit(this.#y, this.stage.clientHeight);
    this.image.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#scale})`;
    this.stage.classList.toggle("zoomed", this.#scale > 1);
  }
}

// ---------- the viewer

/** A button with a sign on it. */
const signButton = (
  /** @type {string} */ title,
  /** @type {string} */ sign,
  /** @type {() => void} */ click,
) => button(sign, click, { "aria-label": title, title });

class Viewer {
  /** Position of the hit in the results; -1 if it is not among the loaded ones. */
  position = -1;
  /** @type {Hit | null} */
  #hit = null;
  /** @type {Zoom | null} */
  #zoom = null;
  #page = 1;
  #abort = new AbortController();

  #title = h("h2", { id: "viewer-title", "aria-live": "polite" });
  #place = h("span", { class: "place" });
  #stage = h("div", { class: "stage" });
  #details = h("aside", { class: "details", tabindex: 0, "aria-label": "Details" });
  #previous = signButton("Previous", "‹", () => this.step(-1));
  #next = signButton("Next", "›", () => this.step(1));
  #larger = signButton("Larger", "+", () => this.#zoom?.by(1.5));
  #smaller = signButton("Smaller", "−", () => this.#zoom?.by(1 / 1.5));
  #dialog = h(
    "dialog",
    { id: "viewer", "aria-labelledby": "viewer-title" },
    h(
      "div",
      { class: "bar" },
      signButton("Close", "×", () => app.leaveViewer()),
      this.#title,
      this.#place,
      this.#smaller,
      this.#larger,
      this.#previous,
      this.#next,
    ),
    this.#stage,
    this.#details,
  );

  constructor() {
    document.body.append(this.#dialog);
    this.#dialog.addEventListener("cancel", (/** @type {Event} */ event) => {
      event.preventDefault();
      app.leaveViewer();
    });
    // browsers may close a dialog that keeps refusing to
    this.#dialog.addEventListener("close", () => {
      if (this.#hit && !this.#dialog.open) app.leaveViewer();
    });
    this.#dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) =>
      this.#key(event),
    );
  }

  /** Opens an item; a position says where it is among the results. */
  async show(/** @type {number} */ id, /** @type {number} */ position) {
    this.#abort.abort();
    this.#abort = new AbortController();
    const { signal } = this.#abort;
    const found = app.results.at(position);
    const loaded = found?.id === id ? found : null;
    this.position = loaded ? position : -1;
    if (loaded) this.#show(loaded, null);
    try {
      const item = await request(itemAddress(id, "", app.search), { signal });
      const unranked = { score: 0, confidence: null, span: null, caption: null, signals: {} };
      const hit = loaded ?? { ...unranked, ...item };
      if (!loaded || hit.modality === "text") this.#show(hit, item);
      else this.#showDetails(hit, item);
    } catch (error) {
      if (signal.aborted) return;
      app.fail(error);
      app.leaveViewer(); // so that the address does not say that it is open
    }
  }

  hide() {
    this.#abort.abort();
    this.#zoom?.abort.abort();
    this.#hit = null;
    this.#dialog.close();
    this.#stage.replaceChildren(); // ends what plays
  }

  /** Goes to the next hit or the one before, loading more as needed. */
  async step(/** @type {number} */ by) {
    const { results } = app;
    // the results may have been asked for again since it was opened
    const at = results.positionOf(this.#hit?.id ?? 0);
    if (at >= 0) this.position = at;
    const position = this.position + by;
    if (this.position < 0 || position < 0 || position >= results.length) return;
    try {
      await results.loadAt(position);
    } catch (error) {
      app.fail(error);
      return;
    }
    const hit = results.at(position);
    if (!hit || !this.#dialog.open) return;
    app.moved(position);
    await this.show(hit.id, position);
  }

  #key(/** @type {KeyboardEvent} */ event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLMediaElement)
      return;
    /** @type {Record<string, () => unknown>} */
    const actions = {
      ArrowLeft: () => this.step(-1),
      ArrowRight: () => this.step(1),
      "+": () => this.#zoom?.by(1.5),
      "=": () => this.#zoom?.by(1.5),
      "-": () => this.#zoom?.by(1 / 1.5),
      0: () => this.#zoom?.reset(),
      "[": () => this.#turn(-1),
      "]": () => this.#turn(1),
      m: () => this.#hit && app.searchByItem(this.#hit.id),
      n: () => this.#hit && app.searchByItem(this.#hit.id, -1),
      p: () => this.#stage.querySelector("sound-wave")?.toggle(),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    void actions[event.key]();
  }

  // ---------- the stage

  #show(/** @type {Hit} */ hit, /** @type {any} */ item) {
    this.#hit = hit;
    this.#zoom?.abort.abort();
    this.#zoom = null;
    const name = nameOf(hit.path);
    this.#title.textContent = name;
    const { results } = app;
    this.#place.textContent =
      this.position < 0
        ? ""
        : `${formatNumber(this.position + 1)} of ${formatNumber(results.length)}`;
    this.#previous.disabled = this.position <= 0;
    this.#next.disabled = this.position < 0 || this.position >= results.length - 1;
    this.#stage.className = `stage ${hit.modality}`;
    this.#stage.replaceChildren(...this.#content(hit, item));
    this.#larger.hidden = this.#smaller.hidden = this.#zoom === null;
    this.#showDetails(hit, item);
    if (!this.#dialog.open) this.#dialog.showModal();
    this.#stage.querySelector(".matched")?.scrollIntoView({ block: "center" });
  }

  /** @returns {Node[]} */
  #content(/** @type {Hit} */ hit, /** @type {any} */ item) {
    const { modality, metadata, span } = hit;
    const media = itemAddress(hit.id, "media", app.search);
    if (modality === "audio") return [Object.assign(h("sound-wave"), { hit, search: app.search })];
    if (modality === "text") return [this.#text(hit, item)];
    if (modality === "video") {
      const from = span?.unit === "second" ? `#t=${span.start}` : "";
      const video = h("video", {
        controls: true,
        preload: "metadata",
        poster: thumbnailAddress(hit, 1024, app.search),
        src: media + from,
      });
      video.addEventListener("error", () => {
        const picture = h("img", { alt: nameOf(hit.path), src: video.poster });
        video.replaceWith(
          picture,
          h("p", {}, "This browser cannot play the video; it can be downloaded."),
        );
      });
      return [video];
    }
    const image = h("img", {
      alt: hit.caption?.slice(0, 500) ?? nameOf(hit.path),
      draggable: "false",
      src: thumbnailAddress(hit, 1024, app.search),
    });
    image.addEventListener(
      "error",
      () => {
        image.replaceWith(h("p", {}, "There is no picture of this file any more."));
      },
      { once: true },
    );
    let isSharp = false;
    const sharpen = async () => {
      if (isSharp || modality !== "image") return;
      isSharp = true;
      try {
        // no browser shows a raw photo of 50 MB
        const { headers } = await fetch(media, { method: "HEAD" });
        if (!headers.get("Content-Type")?.startsWith("image/")) return;
        const whole = new Image();
        whole.src = media;
        await whole.decode();
        image.src = media;
      } catch {} // a format of some cameras
    };
    this.#zoom = new Zoom(this.#stage, image, {
      sharpen: () => void sharpen(),
      swipe: (step) => void this.step(step),
    });
    // an animation plays by itself, after a picture of the moment that matched
    if (metadata.seconds && !matchMedia("(prefers-reduced-motion: reduce)").matches) void sharpen();
    if (modality !== "document" || !(metadata.pages > 1)) return [image];
    this.#page = span?.unit === "page" ? span.start : 1;
    const before = signButton("Page before", "‹", () => this.#turn(-1));
    const after = signButton("Page after", "›", () => this.#turn(1));
    return [
      image,
      h("div", { class: "pages" }, before, h("span", { role: "status" }, this.#pageText()), after),
    ];
  }

  #pageText() {
    return `Page ${this.#page} of ${this.#hit?.metadata.pages}`;
  }

  /** Turns the pages of a document. */
  #turn(/** @type {number} */ by) {
    const hit = this.#hit;
    const image = this.#stage.querySelector("img");
    const text = this.#stage.querySelector(".pages span");
    const page = this.#page + by;
    if (!hit || !image || !text || page < 1 || page > hit.metadata.pages) return;
    this.#page = page;
    text.textContent = this.#pageText();
    image.src = thumbnailAddress(hit, 1024, app.search, { start: page, end: page, unit: "page" });
  }

  /** A text by its passages, the one that matched marked. */
  #text(/** @type {Hit} */ { caption, span }, /** @type {any} */ item) {
    const texts = item?.texts ?? [{ text: caption ?? "", span }];
    const query = wordsOf(app.search);
    const passages = texts.map((/** @type {any} */ { text, span: place }) => {
      const isPlace = span && place?.start === span.start;
      // of a long section, the passage alone
      const matched = texts.length > 1 && isPlace && (span.unit === "line" || text === caption);
      return h("p", { class: matched ? "matched" : null }, ...highlight(text, query));
    });
    return h("article", { tabindex: 0, "aria-label": "Text" }, ...passages);
  }

  // ---------- the details

  #showDetails(/** @type {Hit} */ hit, /** @type {any} */ item) {
    const { path, metadata, id } = hit;
    const { latitude, longitude } = metadata;
    const only = (/** @type {Record<string, unknown>} */ filter) => () =>
      app.navigate(new Search({ index: app.search.index, filters: [filter] }));
    const date = dateOf(metadata).slice(0, 10);
    const download = itemAddress(id, "media", app.search, { download: 1 });
    const isGone = item?.available === false;
    const actions = h(
      "div",
      { class: "actions" },
      button("More like this", () => app.searchByItem(id)),
      button("Less like this", () => app.searchByItem(id, -1)),
      date && button("Same day", only({ date })),
      latitude != null &&
        longitude != null &&
        button("Nearby", only({ near: `${latitude},${longitude},${NEARBY_KM}` })),
      button("Same folder", only({ folder: folderOf(path) })),
      button("Copy path", () => void copy(path, "Copied the path.")),
      !isGone && h("a", { href: download, download: nameOf(path) }, "Download"),
    );
    const gone =
      isGone && h("p", { class: "warning" }, "The file has changed or is gone since it was indexed.");
    // the buttons are made anew, so the focus stays at least in the details
    const hadFocus = this.#details.contains(document.activeElement);
    this.#details.replaceChildren(
      ...[
        gone,
        actions,
        this.#why(hit),
        this.#facts(hit),
        this.#texts(hit, item),
        this.#duplicates(item),
      ].filter(Boolean),
    );
    if (hadFocus) this.#details.focus();
  }

  /** Why it matched: the rank in each ranking, and its share of the score. */
  #why(/** @type {Hit} */ { signals, confidence, span }) {
    const rows = Object.entries(signals).map(([name, { rank, share }]) => {
      const percent = Math.round(share * 100);
      const bar = h("span", { class: "share", "aria-hidden": "true" });
      bar.style.width = `${Math.min(100, Math.abs(percent))}%`;
      bar.classList.toggle("negative", percent < 0);
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, RANKINGS[name] ?? name),
        h("td", {}, rank === null ? "–" : formatNumber(rank)),
        h("td", {}, `${percent} %`),
        h("td", { class: "bar" }, bar),
      );
    });
    if (!rows.length) return null;
    const sure = confidence === null ? "" : `Confidence ${confidence.toFixed(2)}`;
    const facts = [sure, spanText(span) && `best at ${spanText(span)}`].filter(Boolean).join(", ");
    const head = h(
      "tr",
      {},
      ...["Ranking", "Rank", "Share"].map((text) => h("th", { scope: "col" }, text)),
      h("td"),
    );
    return h(
      "section",
      {},
      h("h3", {}, "Why it matched"),
      facts && h("p", {}, facts),
      h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)),
    );
  }

  /** Everything known of the file. */
  #facts(/** @type {Hit} */ { path, metadata, id }) {
    const {
      taken_at,
      modified,
      camera,
      width,
      height,
      size,
      seconds,
      pages,
      latitude,
      longitude,
      tags,
      meta,
    } = metadata;
    const time = (/** @type {string} */ written) => `${period(written)}, ${written.slice(11, 16)}`;
    /** @type {[string, unknown][]} */
    const facts = [
      ["Taken", taken_at && time(taken_at)],
      ["Modified", modified && `${time(modified)} UTC`],
      ["Camera", camera],
      ["Pixels", width && height && `${formatNumber(width)} × ${formatNumber(height)}`],
      [
        "Size",
        size != null &&
          (size < 1e6
            ? `${formatNumber(Math.ceil(size / 1e3))} kB`
            : `${formatNumber(Math.round(size / 1e5) / 10)} MB`),
      ],
      ["Length", seconds && clock(seconds)],
      ["Pages", pages],
      [
        "Place",
        latitude != null && longitude != null && `${latitude.toFixed(5)}, ${longitude.toFixed(5)}`,
      ],
      ["Tags", tags?.length && tags.map((/** @type {any} */ tag) => tag.tag ?? tag).join(", ")],
      ...Object.entries(meta ?? {}).map(([key, value]) => [
        key,
        value > 0 && Object.hasOwn(WRITTEN, key) ? WRITTEN[key](Number(value)) : value,
      ]),
      ["Folder", relativeFolder(folderOf(path), app.status?.sources ?? [])],
      ["Path", path],
      ["Id", id],
    ];
    const known = facts.filter(
      ([, value]) => value != null && value !== false && value !== "" && value !== 0,
    );
    const shown = (/** @type {unknown} */ value) =>
      typeof value === "object" ? JSON.stringify(value) : String(value);
    return h(
      "section",
      {},
      h("h3", {}, "Details"),
      h(
        "dl",
        {},
        ...known.flatMap(([term, value]) => [h("dt", {}, term), h("dd", {}, shown(value))]),
      ),
    );
  }

  /** Captions, and words that were read or heard. */
  #texts(/** @type {Hit} */ { modality }, /** @type {any} */ item) {
    if (modality === "text" || !item?.texts?.length) return null;
    const query = wordsOf(app.search);
    const rows = item.texts.map((/** @type {any} */ { text, origin, span }) => {
      const from = [ORIGINS[origin] ?? origin, spanText(span)]
        .filter(Boolean)
        .join(", ");
      return h("li", {}, h("small", {}, from), h("p", {}, ...highlight(text, query)));
    });
    return h("section", { class: "texts" }, h("h3", {}, "Words"), h("ul", {}, ...rows));
  }

  #duplicates(/** @type {any} */ item) {
    if (!item?.duplicates?.length) return null;
    const rows = item.duplicates.map((/** @type {any} */ { id, path }) => {
      const { index } = app.search;
      const to = new URLSearchParams({ open: id, ...(index && { index }) });
      return h("li", {}, h("a", { href: `/?${to}` }, path));
    });
    return h("section", {}, h("h3", {}, "Copies of it"), h("ul", {}, ...rows));
  }
}

export const viewer = new Viewer();
