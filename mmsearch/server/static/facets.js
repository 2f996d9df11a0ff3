/**
 * Facets: counts by kind, month, folder, camera and tag. A click filters by a value; months form a
 * histogram in which a range is dragged or set by two handles.
 *
 * @typedef {import("./api.js").Results} Results
 * @typedef {{value: string, count: number}} Count
 * @typedef {Record<string, Count[]>} Facets
 */

import { request } from "./api.js";
import { app } from "./app.js";
import { button, byId, formatNumber, h, kindName, relativeFolder } from "./grid.js";

/** Values of a facet that are shown before "more" is clicked. */
const INITIAL_VALUES = 8;

/** Bars of a histogram by month; a longer time is shown by year. */
const MAX_BARS = 240;

const NARROW = matchMedia("(width < 60rem)");

/** The facets in order: name, title, the key to filter by. */
const FACETS = [
  ["kind", "Kind", "modality"],
  ["year", "Year", "date"],
  ["folder", "Folder", "folder"],
  ["camera", "Camera", "camera"],
  ["tag", "Tag", "tag"],
];

/**
 * Inserts the months without items, so that the histogram's axis is linear in time.
 * @param {Count[]} counts by ascending month, "2019-07"
 * @returns {Count[]}
 */
export function withGaps(counts) {
  const known = new Map(counts.map(({ value, count }) => [value, count]));
  const [first, last] = [counts[0].value, counts[counts.length - 1].value].map((written) => {
    const [year, month] = written.split("-").map(Number);
    return year * 12 + month - 1;
  });
  if (last - first >= MAX_BARS) return byYear(counts);
  return Array.from({ length: last - first + 1 }, (_, offset) => {
    const number = first + offset;
    const year = String(Math.floor(number / 12)).padStart(4, "0");
    const value = `${year}-${String((number % 12) + 1).padStart(2, "0")}`;
    return { value, count: known.get(value) ?? 0 };
  });
}

/** Years without items are left out: one photo dated to the year 1 would add two thousand bars. */
function byYear(/** @type {Count[]} */ counts) {
  const years = new Map();
  for (const { value, count } of counts) {
    const year = value.slice(0, 4);
    years.set(year, (years.get(year) ?? 0) + count);
  }
  return [...years].map(([value, count]) => ({ value, count }));
}

class SearchFacets extends HTMLElement {
  #abort = new AbortController();
  /** Names of the facets that show all their values. */
  #expanded = new Set();
  /** @type {Results | null} what is counted, or about to be */
  #counted = null;
  /** @type {Facets | null} the counts that are shown */
  #facets = null;
  /** The indexed folders, by which folders are named. */
  #sources = "";
  /** Resolves when the pointer is up: what is dragged must not be replaced. */
  #dragged = Promise.resolve();
  #toggle = byId("show-facets");

  connectedCallback() {
    this.#toggle.addEventListener("click", () => this.#open(!this.#isOpen));
    app.addEventListener("search", () => {
      this.#abort.abort();
      this.#counted = null;
    });
    app.addEventListener("results", () => void this.#refresh());
    app.addEventListener("status", () => {
      const sources = String(app.status?.sources);
      if (this.#facets && sources !== this.#sources) void this.#showOnceStill(this.#facets);
      this.#sources = sources;
    });
    // a range input sends its change event after pointerup, hence the timeout
    this.addEventListener("pointerdown", () => {
      this.#dragged = new Promise((resolve) => {
        const end = () => setTimeout(resolve);
        for (const type of ["pointerup", "pointercancel"]) {
          addEventListener(type, end, { once: true });
        }
      });
    });
    NARROW.addEventListener("change", () => this.#showState());
    this.#showState();
  }

  get #isOpen() {
    const { facets } = document.body.dataset;
    return facets ? facets === "open" : !NARROW.matches; // as the style sheet has it
  }

  #open(/** @type {boolean} */ on) {
    document.body.dataset.facets = on ? "open" : "closed";
    this.#showState();
    if (on && NARROW.matches) this.querySelector("button")?.focus();
    else if (this.contains(document.activeElement)) this.#toggle.focus();
  }

  #showState() {
    this.#toggle.setAttribute("aria-expanded", String(this.#isOpen));
    void this.#refresh();
  }

  /** Counts the results once they are shown, and only while the panel is open. */
  async #refresh() {
    const { results } = app;
    if (!this.#isOpen || results === this.#counted) return;
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#counted = results;
    const { signal } = this.#abort;
    try {
      await this.#showOnceStill(
        await request("/api/v1/facets", { json: results.search.request, signal }),
        signal,
      );
    } catch (error) {
      if (!signal.aborted) this.#counted = null;
      app.fail(error);
    }
  }

  async #showOnceStill(
    /** @type {Facets} */ facets,
    /** @type {AbortSignal=} */ signal,
  ) {
    await this.#dragged;
    if (signal?.aborted) return; // the drag has narrowed the search
    this.#facets = facets;
    this.#show(facets);
  }

  #show(/** @type {Facets} */ facets) {
    const focused = this.querySelector(":focus");
    const groups = FACETS.flatMap(([name, title, filter]) => {
      const counts = facets[name] ?? [];
      return counts.length ? [this.#group(name, title, filter, counts)] : [];
    });
    const months = facets.month ?? [];
    if (months.length > 1) groups.splice(1, 0, this.#histogram(withGaps(months)));
    const close = button("Close", () => this.#open(false), { class: "close", "data-key": "close" });
    const none = !groups.length && h("p", { class: "range" }, "There is nothing to count.");
    this.replaceChildren(...[h("h2", {}, "Filters"), close, none, ...groups].filter(Boolean));
    if (!focused) return;
    const same = this.querySelector(`[data-key="${CSS.escape(focused.dataset.key ?? "")}"]`);
    const other = this.querySelector("li button") ?? this.#toggle;
    (same ?? other).focus();
  }

  #group(
    /** @type {string} */ name,
    /** @type {string} */ title,
    /** @type {string} */ filter,
    /** @type {Count[]} */ counts,
  ) {
    const all = this.#expanded.has(name) ? counts : counts.slice(0, INITIAL_VALUES);
    const list = h("ul", {}, ...all.map((one) => this.#value(name, filter, one)));
    const more = () => {
      this.#expanded.add(name);
      const hidden = counts.slice(INITIAL_VALUES).map((one) => this.#value(name, filter, one));
      list.append(...hidden);
      showAll.remove();
      hidden[0].querySelector("button").focus();
    };
    const showAll = button(`${counts.length - INITIAL_VALUES} more`, more, {
      class: "more",
      "data-key": `more ${name}`,
    });
    const isCut = all.length < counts.length;
    return h("section", {}, h("h3", {}, title), list, isCut && showAll);
  }

  #value(
    /** @type {string} */ name,
    /** @type {string} */ key,
    /** @type {Count} */ { value, count },
  ) {
    let label = value;
    if (name === "kind") label = kindName(value);
    if (name === "folder") label = relativeFolder(value, app.status?.sources ?? []);
    const filter = { [key]: value };
    const written = JSON.stringify(filter);
    const isOn = app.search.filters.some((one) => JSON.stringify(one) === written);
    const change = () => (isOn ? app.unfilter(filter) : app.filter(filter));
    const content = [h("span", {}, label), h("span", { class: "count" }, formatNumber(count))];
    return h(
      "li",
      {},
      button(content, change, { "aria-pressed": String(isOn), "data-key": written }),
    );
  }

  /** Bars over time; a range is dragged with a pointer or set by the two handles. */
  #histogram(/** @type {Count[]} */ counts) {
    const highest = Math.max(...counts.map(({ count }) => count));
    const bars = h("div", { class: "bars", "aria-hidden": "true" });
    for (const { value, count } of counts) {
      const bar = h("span", { title: `${value}: ${formatNumber(count)}` });
      bar.style.height = `${count ? Math.max(4, (count / highest) * 100) : 0}%`;
      bars.append(bar);
    }
    const last = counts.length - 1;
    const label = h("p", { class: "range" });
    const handle = (/** @type {string} */ name, /** @type {number} */ value) =>
      h("input", {
        type: "range",
        min: 0,
        max: last,
        value,
        "aria-label": name,
        "data-key": name,
        input: () => paint(),
        change: () => narrow(),
      });
    const [from, to] = [handle("From", 0), handle("To", last)];
    const range = () => [Number(from.value), Number(to.value)].sort((a, b) => a - b);
    const paint = () => {
      const [first, final] = range();
      [...bars.children].forEach((bar, at) =>
        bar.classList.toggle("out", at < first || at > final),
      );
      const [a, b] = [counts[first].value, counts[final].value];
      label.textContent = a === b ? a : `${a} – ${b}`;
      from.setAttribute("aria-valuetext", a);
      to.setAttribute("aria-valuetext", b);
    };
    const narrow = () => {
      const [first, final] = range();
      if (first === 0 && final === last) return;
      const [a, b] = [counts[first].value, counts[final].value];
      app.filter({ date: a === b ? a : { $gte: a, $lte: b } });
    };
    const barAt = (/** @type {PointerEvent} */ event) => {
      const { left, width } = bars.getBoundingClientRect();
      const at = Math.floor(((event.clientX - left) / width) * counts.length);
      return String(Math.min(last, Math.max(0, at)));
    };
    bars.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
      bars.setPointerCapture(event.pointerId);
      from.value = to.value = barAt(event);
      paint();
    });
    bars.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
      if (!bars.hasPointerCapture(event.pointerId)) return;
      to.value = barAt(event);
      paint();
    });
    bars.addEventListener("pointerup", () => narrow());
    bars.addEventListener("pointercancel", () => {
      [from.value, to.value] = [0, last];
      paint();
    });
    paint();
    return h(
      "section",
      { class: "time" },
      h("h3", {}, "Time"),
      bars,
      h("div", { class: "handles" }, from, to),
      label,
    );
  }
}

customElements.define("search-facets", SearchFacets);
