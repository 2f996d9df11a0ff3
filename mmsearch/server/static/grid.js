/**
 * The hits as a justified, virtualised grid: the layout as pure functions, a tile for each kind of
 * file, and the element that manages rows, focus and selection.
 *
 * @typedef {import("./api.js").Hit} Hit
 * @typedef {import("./api.js").Results} Results
 * @typedef {import("./api.js").Search} Search
 * @typedef {import("./api.js").Span} Span
 * @typedef {{start: number, height: number, widths: number[]}} Row `start` counts items, from 0
 */

import { PAGE, thumbnailAddress } from "./api.js";

// ---------- layout

const GAP = 6;

/** Height of the line above the weak matches. */
const DIVIDER = 64;

/** Target height of rows in a grid of this width: some six photos a row, on a phone two or three. */
export const rowHeight = (/** @type {number} */ width) => Math.min(240, Math.max(124, width / 5.5));

/** Aspect ratio (width / height) of a tile. */
export function ratioOf(/** @type {Hit} */ { modality, metadata: { width, height } }) {
  if (modality === "audio" || modality === "text") return 1.6;
  if (modality === "document") return 0.75;
  // extreme panoramas are cropped; sizes may be unknown
  return width && height ? Math.min(3, Math.max(0.5, width / height)) : 1;
}

/**
 * Breaks items into rows that fill the width and are close to the target height: minimises the sum
 * of log(height / target)² by dynamic programming, as Knuth & Plass (1981) break paragraphs.
 *
 * @param {number[]} ratios width by height of each item
 * @param {number} width pixels
 * @param {number} target pixels
 * @param {boolean} ragged whether the last row may end before the width does
 * @returns {Row[]}
 */
export function justify(ratios, width, target, ragged) {
  const least = [0];
  /** @type {{start: number, height: number}[]} the best row that ends before each item */
  const best = [{ start: 0, height: 0 }];
  for (let end = 1; end <= ratios.length; end++) {
    least[end] = Infinity;
    let sum = 0;
    for (let start = end - 1; start >= 0; start--) {
      sum += ratios[start];
      let height = (width - GAP * (end - start - 1)) / sum;
      if (height < target / 2 && start < end - 1) break; // more items only make it lower
      let cost = Math.log(height / target) ** 2;
      if (ragged && end === ratios.length && height > target) {
        height = target;
        cost = 0;
      }
      if (least[start] + cost < least[end]) {
        least[end] = least[start] + cost;
        best[end] = { start, height };
      }
    }
  }
  const rows = [];
  for (let end = ratios.length; end > 0; end = best[end].start) {
    const { start, height } = best[end];
    rows.unshift({
      start,
      height,
      widths: ratios.slice(start, end).map((ratio) => ratio * height),
    });
  }
  return rows;
}

/** Estimated height of items that are not loaded yet; most photos are 4:3. */
export function estimatedHeight(
  /** @type {number} */ count,
  /** @type {number} */ width,
  /** @type {number} */ target,
) {
  const inRow = Math.max(1, Math.round(width / (target * 1.3)));
  return Math.ceil(count / inRow) * (target + GAP);
}

// ---------- words

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const MONTH = new Intl.DateTimeFormat(undefined, { month: "long", year: "numeric" });
const COUNT = new Intl.NumberFormat();

const KINDS = {
  image: "photo",
  text: "text",
  audio: "sound",
  video: "video",
  document: "document",
};

export const kindName = (/** @type {string} */ kind) =>
  Object.hasOwn(KINDS, kind) ? KINDS[kind] : kind;

export const formatNumber = (/** @type {number} */ number) => COUNT.format(number);

export const nameOf = (/** @type {string} */ path) => path.slice(path.lastIndexOf("/") + 1);

export const folderOf = (/** @type {string} */ path) => path.slice(0, path.lastIndexOf("/")) || "/";

/** A folder relative to the indexed folder that contains it. */
export function relativeFolder(/** @type {string} */ folder, /** @type {string[]} */ sources) {
  const source = sources
    .filter((root) => folder === root || folder.startsWith(root.endsWith("/") ? root : `${root}/`))
    .sort((a, b) => b.length - a.length)[0];
  if (source === undefined) return folder;
  return folder.slice(source.length).replace(/^\//, "") || nameOf(source);
}

/** When a photo was taken, else when the file was modified. */
export const dateOf = (/** @type {Record<string, any>} */ { taken_at, modified }) =>
  taken_at ?? modified ?? "";

/** An ISO time's day, or a month ("2019-07"), as people write it; what is neither stays. */
export function period(/** @type {string} */ written) {
  // the calendar day as it is written: cameras know no time zones
  const found = /^(\d{4})-(\d\d)(?:-(\d\d))?(?!\d)/.exec(written);
  if (!found) return written;
  const [year, month, day] = found.slice(1).map((digits) => Number(digits ?? 1));
  const date = new Date(2000, 0);
  date.setFullYear(year, month - 1, day); // the constructor takes the year 1 for 1901
  if (date.getMonth() !== month - 1) return written; // there is no such day
  return (found[3] ? DAY : MONTH).format(date);
}

/** Seconds as h:mm:ss or m:ss. */
export function clock(/** @type {number} */ seconds) {
  const whole = Math.floor(seconds);
  const two = (/** @type {number} */ number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** The matched part of a file, in words; "" for the whole file. */
export function spanText(/** @type {Span | null} */ span) {
  if (!span) return "";
  const { start, end, unit } = span;
  if (unit === "second") return `${clock(start)}–${clock(end)}`;
  if (unit === "slide" || unit === "section") {
    return start ? `${unit === "slide" ? "slide" : "§"} ${start}` : "";
  }
  const range = end > start ? `${start}–${end}` : `${start}`;
  return unit === "page" ? `p. ${range}` : `${end > start ? "lines" : "line"} ${range}`;
}

/** Characters of a text on a tile: more than it has room for. */
const MAX_TILE_TEXT = 2000;

const STOP_WORDS = new Set("a an and at by for from in is it of on or the to with".split(" "));

/** Strips common English endings, roughly as the stemmer of the search by words does. */
const stem = (/** @type {string} */ word) =>
  word.length > 3 ? word.replace(/(ies|y|ing|ed|es|s|e)$/, "").replace(/(.)\1$/, "$1") : word;

/**
 * Splits a text so that every second piece is a word of the query.
 * @param {string} text
 * @param {string} query
 */
export function splitMatches(text, query) {
  const wordsOf = (/** @type {string} */ from) => from.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  const stems = new Set(
    wordsOf(query)
      .filter((word) => !STOP_WORDS.has(word))
      .map(stem),
  );
  const split = text.split(/([\p{L}\p{N}]+)/u); // plain text and words in turn
  const found = [split[0]];
  for (let at = 1; at < split.length; at += 2) {
    if (stems.has(stem(split[at].toLowerCase()))) found.push(split[at], split[at + 1]);
    else found[found.length - 1] += split[at] + split[at + 1];
  }
  return found;
}

// ---------- elements

/**
 * Creates an element. Strings become text, never markup; functions become event listeners.
 * @param {string} tag
 * @param {Record<string, any>} attributes
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value != null)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

/** A button that submits nothing. */
export const button = (
  /** @type {string | HTMLElement[]} */ content,
  /** @type {() => void} */ click,
  attributes = {},
) => h("button", { type: "button", click, ...attributes }, ...[content].flat());

/** The element of the page with an id. */
export const byId = (/** @type {string} */ id) =>
  document.getElementById(id);

/** A text with the words of the query marked. */
export const highlight = (/** @type {string} */ text, /** @type {string} */ query) =>
  splitMatches(text, query).map((piece, at) => (at % 2 ? h("mark", {}, piece) : piece));

/** The words that a search is for. */
export const wordsOf = (/** @type {Search} */ { q, parts }) =>
  [q, ...parts.filter(({ type }) => type === "text").map(({ value }) => value)].join(" ");

/** The accessible name of a tile. */
function labelOf(
  /** @type {Hit} */ { path, modality, metadata, span },
  /** @type {string[]} */ sources,
) {
  const folder = relativeFolder(folderOf(path), sources);
  const facts = [nameOf(path), kindName(modality), period(dateOf(metadata)), folder, spanText(span)];
  return facts.filter(Boolean).join(", ");
}

/**
 * A hit as a cell of the grid.
 * @param {Hit} hit
 * @param {{width: number, height: number, search: Search, sources: string[]}} box
 */
function tile(hit, { width, height, search, sources }) {
  const { modality, path, caption, metadata, span } = hit;
  const name = nameOf(path);
  const folder = relativeFolder(folderOf(path), sources);
  const date = period(dateOf(metadata));
  const where = spanText(span);
  const label = labelOf(hit, sources);
  const cell = h("div", {
    role: "gridcell",
    class: `tile ${modality}`,
    tabindex: -1,
    "aria-label": label,
  });
  cell.style.width = `${width}px`;
  if (modality === "text") {
    cell.append(
      h("p", { class: "name" }, name),
      h("blockquote", {}, ...highlight((caption ?? "").slice(0, MAX_TILE_TEXT), wordsOf(search))),
    );
  } else if (modality === "audio") {
    const sound = h("sound-wave");
    Object.assign(sound, { hit, search }); // before it is upgraded, as after
    cell.append(h("p", { class: "name" }, name), sound);
  } else {
    cell.append(picture(hit, Math.max(width, height), search));
    const moves = modality === "video" || (modality === "image" && metadata.seconds);
    const badge = moves
      ? `▶ ${clock(span?.unit === "second" ? span.start : 0)}`
      : modality === "document" && (where || "PDF");
    if (badge) cell.append(h("span", { class: "badge", "aria-hidden": "true" }, badge));
  }
  cell.append(
    h(
      "div",
      { class: "note" },
      h("span", { class: "file" }, name), // where there is no picture of it
      h("span", {}, date),
      h("span", { class: "folder" }, folder),
      where && h("span", {}, where),
    ),
    h("button", { class: "tick", type: "button", tabindex: -1, "aria-label": `Select ${name}` }),
  );
  return cell;
}

/** A thumbnail, replaced by a larger one where the screen would show the difference. */
function picture(/** @type {Hit} */ hit, /** @type {number} */ side, /** @type {any} */ search) {
  const image = h("img", { alt: "", decoding: "async", draggable: "false", fetchpriority: "low" });
  const fail = () => image.parentElement?.classList.add("broken");
  image.addEventListener("error", fail);
  if (side * devicePixelRatio > 256 * 1.25) {
    const sharpen = async () => {
      if (!image.isConnected) return;
      const sharp = new Image();
      sharp.src = thumbnailAddress(hit, 1024, search);
      await sharp.decode();
      image.src = sharp.src;
    };
    const settled = () => setTimeout(() => sharpen().catch(() => {}), 250);
    image.addEventListener("load", settled, { once: true });
  }
  image.dataset.src = thumbnailAddress(hit, 256, search);
  return image;
}

// ---------- the grid

/**
 * The grid of hits. It scrolls with the page.
 *
 * Events: "open" (a tile; `detail` is its position), "problem" (a page could not be loaded),
 * "selection" (another set of hits is selected).
 */
export class HitGrid extends HTMLElement {
  /** @type {Results | null} */
  results = null;
  /** @type {string[]} the indexed folders */
  #sources = [];
  /** @type {Map<number, Hit>} what is selected, by id */
  selected = new Map();
  /** The position that has the focus, or had it last. */
  current = 0;

  /** @type {{number: number, start: number, count: number, top: number, height: number,
   *   firstRow: number, rows: (Row & {top: number, divider?: boolean})[] | null}[]} */
  #blocks = [];
  /** @type {Map<number, {rows: any[], height: number}>} the layout of loaded pages */
  #layouts = new Map();
  /** @type {Map<string, HTMLElement>} rows that exist, by key */
  #rows = new Map();
  #width = 0;
  #scheduled = false;
  #settling = 0;
  #lastTop = 0;
  /** @type {{at: number, base: Map<number, Hit>} | null} where a range of selected hits begins */
  #pivot = null;

  connectedCallback() {
    this.setAttribute("role", "grid");
    this.setAttribute("aria-multiselectable", "true");
    this.setAttribute("aria-label", "Results");
    new ResizeObserver(() => {
      if (this.clientWidth !== this.#width) this.#relayout();
    }).observe(this);
    const schedule = () => {
      if (this.#scheduled) return;
      this.#scheduled = true;
      requestAnimationFrame(() => {
        this.#scheduled = false;
        this.#render();
      });
    };
    addEventListener("scroll", schedule, { passive: true });
    addEventListener("resize", schedule);
    this.addEventListener("mousedown", (event) => {
      // a range begins at the tile that has the focus, so that must not move yet
      if (event.shiftKey && positionOf(event.target) !== null) event.preventDefault();
    });
    this.addEventListener("click", (event) => this.#click(event));
    // a long press on a touch screen
    this.addEventListener("contextmenu", (event) => {
      const position = positionOf(event.target);
      if (position === null || event.pointerType !== "touch") return;
      event.preventDefault();
      this.toggle(position);
    });
    this.addEventListener("keydown", (event) => this.#key(event));
    this.addEventListener("focusin", (event) => {
      const position = positionOf(event.target);
      if (position !== null) this.#setCurrent(position);
    });
  }

  set sources(/** @type {string[]} */ sources) {
    this.#sources = sources;
    for (const cell of this.querySelectorAll("[role=gridcell]")) {
      const hit = this.results?.at(positionOf(cell) ?? -1);
      const folder = cell.querySelector(".folder");
      if (!hit || !folder) continue;
      folder.textContent = relativeFolder(folderOf(hit.path), sources);
      cell.setAttribute("aria-label", labelOf(hit, sources));
    }
  }

  get sources() {
    return this.#sources;
  }

  /**
   * Shows results.
   * @param {Results} results
   * @param {{position: number, offset: number} | null} anchor where to scroll to; null: these are
   *   other hits, from the first on
   */
  show(results, anchor = null) {
    this.results = results;
    this.#pivot = null;
    this.current = anchor ? Math.min(this.current, Math.max(0, results.length - 1)) : 0;
    this.#relayout({ shape: true, anchor });
  }

  /** The first hit in view, and how many pixels below the upper edge of the view it begins. */
  anchor() {
    const view = this.#view();
    const block = this.#blocks.find(({ top, height }) => top + height > view.top);
    if (!block || view.top < 0) return { position: 0, offset: -view.top };
    const row = block.rows?.find((one) => block.top + one.top + one.height > view.top);
    if (row) return { position: row.start, offset: block.top + row.top - view.top };
    const share = (view.top - block.top) / block.height;
    return { position: block.start + Math.floor(share * block.count), offset: 0 };
  }

  /**
   * Moves the focus to a position, loading its page if need be.
   * @param {number} position
   * @param {FocusOptions=} options
   */
  async focusOn(position, options) {
    const { results } = this;
    if (!results?.length) return;
    position = Math.min(Math.max(position, 0), results.length - 1);
    if (!(await this.#ensure(position)) || results !== this.results) return;
    this.#setCurrent(position);
    this.#render({ withCurrent: true });
    this.#tile(position)?.focus(options);
  }

  // ---------- selection

  /** Selects or deselects one hit. */
  toggle(/** @type {number} */ position) {
    const hit = this.results?.at(position);
    if (!hit) return;
    if (!this.selected.delete(hit.id)) this.selected.set(hit.id, hit);
    this.#pivot = { at: position, base: new Map(this.selected) };
    this.#paintSelection();
  }

  /** Extends the range from the pivot to a position; earlier selections stay. */
  async extend(/** @type {number} */ position) {
    const { results } = this;
    this.#pivot ??= { at: this.current, base: new Map(this.selected) };
    const { at, base } = this.#pivot;
    const [from, to] = [Math.min(at, position), Math.max(at, position)];
    for (let number = Math.floor(from / PAGE); number <= Math.floor(to / PAGE); number++) {
      if (!(await this.#ensure(number * PAGE)) || results !== this.results) return;
    }
    this.selected = new Map(base);
    for (let one = from; one <= to; one++) {
      const hit = results?.at(one);
      if (hit) this.selected.set(hit.id, hit);
    }
    this.#paintSelection();
  }

  deselect() {
    this.selected.clear();
    this.#pivot = null;
    this.#paintSelection();
  }

  #paintSelection() {
    for (const cell of this.querySelectorAll("[role=gridcell]")) this.#paint(cell);
    this.toggleAttribute("selecting", this.selected.size > 0);
    this.dispatchEvent(new Event("selection"));
  }

  #paint(/** @type {Element} */ cell) {
    const hit = this.results?.at(positionOf(cell) ?? -1);
    const on = hit !== undefined && this.selected.has(hit.id);
    cell.setAttribute("aria-selected", String(on));
    cell.querySelector(".tick")?.setAttribute("aria-pressed", String(on));
  }

  // ---------- layout

  /** The visible part of the grid, in its own coordinates. */
  #view() {
    const { top } = this.getBoundingClientRect();
    const header = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) || 0;
    return { top: header - top, bottom: innerHeight - top, header };
  }

  /**
   * @param {{shape?: boolean, anchor?: {position: number, offset: number} | null}} change
   *   shape: whether rows may break elsewhere
   */
  #relayout({ shape = false, anchor = null } = {}) {
    if (!this.results) return;
    shape ||= this.clientWidth !== this.#width;
    const hadFocus = this.contains(document.activeElement);
    const kept = anchor ?? this.anchor();
    if (shape) {
      this.#layouts.clear();
      for (const row of this.#rows.values()) discard(row);
      this.#rows.clear();
    }
    this.#layOut();
    if (anchor || this.#view().top > 0) this.#scrollTo(kept);
    this.#render({ withCurrent: hadFocus });
    if (!hadFocus) return;
    // the page of the tile may not be loaded yet
    const tile = this.#tile(this.current) ?? this.querySelector('[tabindex="0"]');
    tile?.focus({ preventScroll: true });
  }

  #layOut() {
    const results = this.results;
    this.#width = Math.max(1, this.clientWidth);
    const target = rowHeight(this.#width);
    let [top, firstRow] = [0, 1];
    this.#blocks = [];
    for (let number = 0; number < results.pageCount; number++) {
      const start = number * PAGE;
      const count = Math.min(PAGE, results.length - start);
      const known = this.#layoutOf(number, count);
      const height = known?.height ?? estimatedHeight(count, this.#width, target);
      const rows = known?.rows ?? null;
      this.#blocks.push({ number, start, count, top, height, firstRow, rows });
      top += height;
      firstRow += rows?.length ?? Math.round(height / (target + GAP));
    }
    this.style.height = `${Math.max(0, top - GAP)}px`;
    this.setAttribute("aria-rowcount", String(firstRow - 1));
  }

  /** The rows of a loaded page. All fill the width but the last, and the last of the good matches. */
  #layoutOf(/** @type {number} */ number, /** @type {number} */ count) {
    const results = this.results;
    const hits = results.page(number)?.slice(0, count);
    if (!hits) return null;
    const kept = this.#layouts.get(number);
    if (kept) return kept;
    const start = number * PAGE;
    const end = start + hits.length;
    const weak = results.weakFrom || Infinity; // from 0 on: the heading above the grid says so
    const cuts = weak >= start && weak < end ? [start, weak, end] : [start, end];
    const rows = [];
    let height = 0;
    for (let cut = 1; cut < cuts.length; cut++) {
      const [from, to] = [cuts[cut - 1], cuts[cut]];
      if (from === weak) {
        rows.push({ start: from, height: DIVIDER, widths: [], top: height, divider: true });
        height += DIVIDER;
      }
      const ratios = hits.slice(from - start, to - start).map(ratioOf);
      const ragged = to === weak || to === results.length;
      for (const row of justify(ratios, this.#width, rowHeight(this.#width), ragged)) {
        rows.push({ ...row, start: from + row.start, top: height });
        height += row.height + GAP;
      }
    }
    const laidOut = { rows, height };
    this.#layouts.set(number, laidOut);
    return laidOut;
  }

  #blockOf(/** @type {number} */ position) {
    return this.#blocks[Math.floor(position / PAGE)];
  }

  /** The row with a position, if its page is loaded. */
  #rowOf(/** @type {number} */ position) {
    const block = this.#blockOf(position);
    const row = block?.rows?.find(
      ({ start, widths }) => position >= start && position < start + widths.length,
    );
    return row && { block, row, key: String(row.start) };
  }

  #scrollTo(/** @type {{position: number, offset: number}} */ { position, offset }) {
    const block = this.#blockOf(position);
    const found = this.#rowOf(position);
    let top = found ? found.block.top + found.row.top : 0;
    if (!found && block) top = block.top + (block.height * (position - block.start)) / block.count;
    const by = top - offset - this.#view().top;
    if (Math.abs(by) >= 1) scrollTo({ top: scrollY + by, behavior: "instant" });
  }

  /** Loads the page of a position. @returns whether it is there now */
  async #ensure(/** @type {number} */ position) {
    const { results } = this;
    const number = Math.floor(position / PAGE);
    if (!results || results.page(number)) return Boolean(results);
    try {
      await results.load(number);
    } catch (error) {
      if (error.name !== "AbortError") {
        this.dispatchEvent(new CustomEvent("problem", { detail: error }));
      }
      return false;
    }
    // only the first of several calls that waited for this page has to
    if (results === this.results && !this.#layouts.has(number)) this.#relayout();
    return true;
  }

  // ---------- drawing

  #render({ withCurrent = this.contains(document.activeElement) } = {}) {
    if (!this.results) return;
    const view = this.#view();
    const margin = innerHeight / 2;
    const [from, to] = [view.top - margin, view.bottom + margin];
    /** @type {Map<string, {block: any, row: any, index: number}>} */
    const wanted = new Map();
    const missing = this.#blocks.filter(
      ({ rows, top, height }) =>
        !rows && top + height > from - innerHeight && top < to + innerHeight,
    );
    for (const block of this.#blocks) {
      if (block.top + block.height < from || block.top > to) continue;
      if (!block.rows) {
        wanted.set(`page ${block.number}`, { block, row: null, index: 0 });
        continue;
      }
      for (const [index, row] of block.rows.entries()) {
        const top = block.top + row.top;
        if (top + row.height < from || top > to) continue;
        wanted.set(row.divider ? "divider" : String(row.start), { block, row, index });
      }
    }
    const current = withCurrent && this.#rowOf(this.current);
    if (current) {
      const index = current.block.rows?.indexOf(current.row) ?? 0;
      wanted.set(current.key, { ...current, index }); // so that the focus is never lost
    }
    for (const [key, row] of this.#rows) {
      if (wanted.has(key)) continue;
      discard(row);
      this.#rows.delete(key);
    }
    for (const [key, { block, row, index }] of wanted) {
      const known = this.#rows.get(key);
      const make = () =>
        row ? this.#row(row) : h("div", { class: "pending", "aria-hidden": "true" });
      const element = known ?? make();
      this.#rows.set(key, element);
      const top = block.top + (row?.top ?? 0);
      element.style.transform = `translateY(${top}px)`;
      element.style.height = `${row?.height ?? block.height - GAP}px`;
      if (row) element.setAttribute("aria-rowindex", String(block.firstRow + index));
      element.dataset.top = String(top);
      if (!element.isConnected) this.#insert(element, top);
    }
    this.#updateTabStop();
    this.#loadVisible(view.top, missing);
  }

  /** Inserts a row in reading order. */
  #insert(/** @type {HTMLElement} */ element, /** @type {number} */ top) {
    const next = [...this.children].find(
      (row) => Number(row.dataset.top) > top,
    );
    this.insertBefore(element, next ?? null);
  }

  #row(/** @type {Row & {divider?: boolean}} */ { start, height, widths, divider }) {
    const element = h("div", { role: "row", class: divider ? "divider" : "row" });
    if (divider) element.append(h("span", { role: "rowheader" }, "Weaker matches"));
    const { search } = this.results;
    widths.forEach((width, offset) => {
      const hit = this.results?.at(start + offset);
      if (!hit) return;
      const cell = tile(hit, { width, height, search, sources: this.#sources });
      cell.dataset.position = start + offset;
      element.append(cell);
      this.#paint(cell);
    });
    return element;
  }

  /** Loads visible thumbnails and pages; during fast scrolling only once it slows down. */
  #loadVisible(/** @type {number} */ top, /** @type {any[]} */ missing) {
    const isFast = Math.abs(top - this.#lastTop) > innerHeight;
    this.#lastTop = top;
    clearTimeout(this.#settling);
    const load = () => {
      for (const image of this.querySelectorAll("img[data-src]")) {
        image.src = image.dataset.src ?? "";
        delete image.dataset.src;
      }
      const middle = top + innerHeight / 2;
      const distance = (/** @type {any} */ block) =>
        Math.abs(block.top + block.height / 2 - middle);
      missing.sort((a, b) => distance(a) - distance(b));
      for (const { start } of missing.slice(0, 2)) void this.#ensure(start);
    };
    if (isFast) this.#settling = window.setTimeout(load, 80);
    else load();
  }

  // ---------- focus and events

  #tile(/** @type {number} */ position) {
    return this.querySelector(`[data-position="${position}"]`);
  }

  #setCurrent(/** @type {number} */ position) {
    this.current = position;
    this.#updateTabStop();
  }

  /** Roving tabindex: the current tile, or else the first, is in the tab order. */
  #updateTabStop() {
    const tile = this.#tile(this.current) ?? this.querySelector("[role=gridcell]");
    for (const other of this.querySelectorAll('[role=gridcell][tabindex="0"]')) {
      if (other !== tile) other.setAttribute("tabindex", "-1");
    }
    tile?.setAttribute("tabindex", "0");
  }

  #open(/** @type {number} */ position) {
    this.dispatchEvent(new CustomEvent("open", { detail: position }));
  }

  #click(/** @type {MouseEvent} */ event) {
    const target = event.target;
    const position = positionOf(target);
    if (position === null) return;
    if (event.shiftKey) {
      void this.extend(position);
      void this.focusOn(position, { preventScroll: true });
    } else if (event.ctrlKey || event.metaKey || target.closest(".tick")) {
      this.toggle(position);
    } else if (!target.closest("button")) {
      this.#pivot = null;
      this.#open(position);
    }
    this.#setCurrent(position);
  }

  #key(/** @type {KeyboardEvent} */ event) {
    const position = positionOf(event.target);
    if (position === null || event.altKey) return;
    const command = event.ctrlKey || event.metaKey;
    const last = (this.results?.length ?? 1) - 1;
    const row = this.#rowOf(position)?.row;
    const end = row ? row.start + row.widths.length - 1 : position;
    /** @type {Record<string, () => unknown>} */
    const moves = {
      ArrowLeft: () => position - 1,
      ArrowRight: () => position + 1,
      ArrowUp: () => this.#tileAcross(position, -1),
      ArrowDown: () => this.#tileAcross(position, 1),
      Home: () => (command || !row ? 0 : row.start),
      End: () => (command ? last : end),
      PageUp: () => this.#tileAcross(position, -1, innerHeight * 0.8),
      PageDown: () => this.#tileAcross(position, 1, innerHeight * 0.8),
    };
    /** @type {Record<string, () => unknown>} */
    const actions = {
      Enter: () => this.#open(position),
      " ": () => this.toggle(position),
      x: () => this.toggle(position),
      p: () => this.#tile(position)?.querySelector("sound-wave")?.toggle?.(),
    };
    if (event.key in moves) {
      event.preventDefault();
      void this.#move(moves[event.key](), event.shiftKey);
    } else if (event.key in actions && !command && event.target === this.#tile(position)) {
      event.preventDefault();
      actions[event.key]();
    }
  }

  /** Moves the focus; with shift, the range of selected hits grows or shrinks to it. */
  async #move(/** @type {any} */ moved, /** @type {boolean} */ selects) {
    const from = this.current;
    if (selects) this.#pivot ??= { at: from, base: new Map(this.selected) };
    else this.#pivot = null;
    await this.focusOn(await moved);
    if (selects) await this.extend(this.current);
  }

  /** The tile above or below, at least `distance` pixels away, whose middle is nearest. */
  async #tileAcross(/** @type {number} */ position, /** @type {1 | -1} */ step, distance = 1) {
    const length = this.results?.length ?? 0;
    let found = this.#rowOf(position);
    if (!found) return position;
    const middle = middleOf(found.row, position - found.row.start);
    const top = found.block.top + found.row.top;
    let there = found;
    for (;;) {
      const next = step > 0 ? there.row.start + there.row.widths.length : there.row.start - 1;
      if (next < 0 || next >= length || !(await this.#ensure(next))) break;
      const row = this.#rowOf(next);
      if (!row) break;
      there = row;
      if (Math.abs(there.block.top + there.row.top - top) >= distance) break;
    }
    const gaps = there.row.widths.map((_, at) => Math.abs(middleOf(there.row, at) - middle));
    return there === found ? position : there.row.start + gaps.indexOf(Math.min(...gaps));
  }
}

/** The horizontal middle of an item of a row, in pixels. */
const middleOf = (/** @type {Row} */ { widths }, /** @type {number} */ at) =>
  widths.slice(0, at).reduce((sum, width) => sum + width + GAP, 0) + widths[at] / 2;

/** The position of the tile that an element is in, or null. */
function positionOf(/** @type {EventTarget | null} */ target) {
  const cell = target instanceof Element ? target.closest("[data-position]") : null;
  return cell ? Number(cell.dataset.position) : null;
}

/** Removes a row and aborts the loading of its pictures. */
function discard(/** @type {HTMLElement} */ row) {
  for (const image of row.querySelectorAll("img")) image.removeAttribute("src");
  row.remove();
}

customElements.define("hit-grid", HitGrid);
