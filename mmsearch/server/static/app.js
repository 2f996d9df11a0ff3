/**
 * The page: its address holds the search, `app` runs it and shows the results. Modules that the
 * first pictures do not need (chips, facets, viewer …) are loaded after them; they listen to the
 * events of `app` and call its methods.
 */

import { Results, Search, address, connection, isId, request } from "./api.js";
import { byId, formatNumber } from "./grid.js";

/** Number of cached results, which Back shows at once. */
const CACHED_ANSWERS = 8;

/** Time after which the other modules are loaded even without pictures, in milliseconds. */
const FIRST_PICTURES_TIMEOUT = 800;

/** Characters of an address; common proxies refuse longer ones (nginx: 8 kB with the headers). */
const MAX_ADDRESS = 7000;

/**
 * Events: "search" (a search has started), "results" (its results are shown), "status" (the status
 * of the collection has been fetched).
 */
class App extends EventTarget {
  search = Search.parse(new URLSearchParams(location.search));
  /** @type {Record<string, any> | null} of the collection that is searched */
  status = null;
  /** @type {import("./grid.js").HitGrid} */
  grid = byId("grid");

  /** Results of the latest search, which may still be loading. */
  #latest = new Results(this.search);
  /** Whether `history.back()`, which is asynchronous, is about to close the viewer. */
  #isLeaving = false;
  /** @type {typeof import("./viewer.js").viewer | null} once it has been loaded */
  #viewer = null;
  /** @type {Map<string, Results>} by address, the latest last */
  #cache = new Map();

  /** The results that are shown. */
  get results() {
    return this.grid.results ?? this.#latest;
  }

  /** Whether nothing is indexed yet, as far as is known. */
  get isEmpty() {
    const counts = Object.values(this.status?.items ?? { unknown: 1 });
    return counts.every((count) => count === 0);
  }

  async start() {
    history.scrollRestoration = "manual"; // the grid knows better: it restores the hit in view
    addEventListener("popstate", () => {
      this.#isLeaving = false;
      void this.#restore();
    });
    // another program may have indexed files meanwhile
    addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") void this.refreshStatus();
    });
    let saving = 0;
    const save = () => {
      clearTimeout(saving);
      saving = window.setTimeout(() => this.#savePlace(), 150);
    };
    addEventListener("scroll", save, { passive: true });
    addEventListener("focusin", save);
    this.grid.addEventListener("open", (event) => void this.open(event.detail));
    this.grid.addEventListener("problem", (event) => this.fail(event.detail));
    connection.addEventListener("change", showConnection);
    new ResizeObserver(measureHeader).observe(byId("header"));
    byId("clear-filters").addEventListener("click", () => {
      this.navigate(this.search.with({ filters: [], confidence: 0 }));
      byId("results").focus(); // the button is hidden with the next answer
    });

    const first = this.#restore();
    const timeout = new Promise((resolve) => setTimeout(resolve, FIRST_PICTURES_TIMEOUT));
    await Promise.race([first, timeout]);
    byId("icon").href = byId("icon").dataset.href;
    await Promise.all([
      import("./box.js"),
      import("./facets.js"),
      import("./jobs.js"),
      import("./keys.js"),
      import("./selection.js"),
      import("./sound.js"),
    ]);
    await this.refreshStatus();
  }

  /**
   * Goes to another search.
   * @param {Search} search
   * @param {{replace?: boolean}} options replace: whether the history entry is replaced
   */
  navigate(search, { replace = false } = {}) {
    if (search.address === this.search.address) {
      if (isViewerOpen()) this.leaveViewer();
      else if (!this.#isShown && !this.#isBusy) void this.#run(search); // it failed: try again
      return;
    }
    const to = addressOf(search);
    if (to.length > MAX_ADDRESS) {
      this.fail(new Error("This search is too long for an address: use fewer words or examples."));
      return;
    }
    this.#savePlace();
    if (replace) history.replaceState({}, "", to);
    else history.pushState({}, "", to);
    void this.#syncViewer();
    void this.#run(search);
  }

  /** Adds a filter in place of one with the same key, except for tags: items have several. */
  filter(/** @type {Record<string, unknown>} */ filter) {
    const [key] = Object.keys(filter);
    const others = this.search.filters.filter((one) => key === "tag" || !(key in one));
    this.navigate(this.search.with({ filters: [...others, filter] }));
  }

  unfilter(/** @type {Record<string, unknown>} */ filter) {
    const written = JSON.stringify(filter);
    const filters = this.search.filters.filter((one) => JSON.stringify(one) !== written);
    this.navigate(this.search.with({ filters }));
  }

  /** Adds an item to the search; a negative weight demotes items similar to it. */
  searchByItem(/** @type {number} */ id, weight = 1) {
    const value = String(id);
    const others = this.search.parts.filter((part) => part.type !== "item" || part.value !== value);
    const part = { type: "item", value, weight };
    this.navigate(this.search.with({ parts: [...others, part] }));
  }

  /** Updates the page to a collection that has changed; what is in view stays there. */
  async refresh() {
    await this.refreshStatus({ hasChanged: true });
  }

  /** Fetches the status. If the collection has changed, drops cached results and searches again. */
  async refreshStatus({ hasChanged = false } = {}) {
    const { index } = this.search;
    let status;
    try {
      status = await request(address("status", this.search));
    } catch (error) {
      this.fail(error);
      return;
    }
    if (index !== this.search.index) return; // it is of another collection
    const before = this.status;
    this.status = status;
    this.grid.sources = status.sources;
    this.dispatchEvent(new Event("status"));
    const counts = ({ items, vectors }) => JSON.stringify([items, vectors]);
    hasChanged ||= before?.index === status.index && counts(before) !== counts(status);
    if (!hasChanged) return;
    this.#cache.clear();
    await this.#run(this.search, this.#isShown ? this.grid.anchor() : null);
  }

  /** Whether the grid shows the current search. */
  get #isShown() {
    return this.grid.results?.search.address === this.search.address;
  }

  get #isBusy() {
    return byId("results").hasAttribute("aria-busy");
  }

  // ---------- the viewer

  /** Opens the hit at a position. */
  async open(/** @type {number} */ position) {
    const hit = this.results.at(position);
    if (!hit || hit.id === openedId()) return; // a double click opens it once
    this.#savePlace();
    history.pushState({ position, pushed: true }, "", addressOf(this.search, hit.id));
    await this.#showViewer(hit.id, position);
  }

  /** Writes the hit that the viewer shows now into the address. */
  moved(/** @type {number} */ position) {
    const hit = this.results.at(position);
    if (!hit) return;
    history.replaceState({ ...history.state, position }, "", addressOf(this.search, hit.id));
  }

  /** Leaves the viewer, as Back does. */
  leaveViewer() {
    if (this.#isLeaving) return; // a second Esc must not go back further
    if (history.state?.pushed) {
      this.#isLeaving = true;
      history.back();
    } else {
      history.replaceState({}, "", addressOf(this.search));
      void this.#syncViewer();
    }
  }

  async #showViewer(/** @type {number} */ id, /** @type {number} */ position) {
    this.#viewer ??= (await import("./viewer.js")).viewer;
    if (id === openedId()) await this.#viewer.show(id, position);
  }

  /** Opens or closes the viewer to match the address. */
  async #syncViewer() {
    const id = openedId();
    if (id) {
      const found = this.results.positionOf(id);
      const position = found < 0 ? (history.state?.position ?? -1) : found;
      if (position > 0) await this.results.loadAt(position).catch(() => {}); // it is shown without
      await this.#showViewer(id, position);
    } else if (this.#viewer) {
      const wasOpen = isViewerOpen();
      const { position } = this.#viewer;
      this.#viewer.hide(); // or gives up the hit that it is about to show
      if (wasOpen && this.#isShown && position >= 0) await this.grid.focusOn(position);
    }
  }

  // ---------- history and searching

  /** Saves the scroll position and the focus in the history entry. */
  #savePlace() {
    if (openedId()) return; // the grid is behind the viewer
    if (!this.#isShown) return; // the grid shows another search still
    const inGrid = this.grid.contains(document.activeElement);
    const inBox = document.activeElement === byId("q");
    const focus = inGrid ? this.grid.current : inBox ? "box" : null;
    history.replaceState({ ...history.state, anchor: this.grid.anchor(), focus }, "");
  }

  /** Shows what the address states: at the start, and after Back or Forward. */
  async #restore() {
    const search = Search.parse(new URLSearchParams(location.search));
    const state = history.state ?? {};
    if (search.address !== this.search.address || !this.grid.results) {
      await this.#run(search, state.anchor);
      if (search !== this.search) return; // another step back was faster
      if (typeof state.focus === "number") {
        await this.grid.focusOn(state.focus, { preventScroll: true });
      }
      if (state.focus === "box") byId("q").focus({ preventScroll: true });
    }
    await this.#syncViewer();
  }

  /**
   * Loads the first page, and the page of the anchor, and shows them.
   * @param {Search} search
   * @param {{position: number, offset: number} | null} anchor where to scroll to; null: the top
   */
  async #run(search, anchor = null) {
    const isOtherIndex = search.index !== this.search.index;
    this.#latest.abort();
    const cached = this.#cache.get(search.address);
    const results = cached ?? new Results(search);
    this.search = search;
    this.#latest = results;
    this.dispatchEvent(new Event("search"));
    byId("results").setAttribute("aria-busy", "true");
    if (cached || isOtherIndex) void this.refreshStatus(); // the cached may be outdated
    try {
      const around = anchor?.position ? [results.loadAt(anchor.position)] : [];
      await Promise.all([results.load(0), ...around]);
    } catch (error) {
      if (results !== this.#latest) return;
      // there is no index before the first file: the page says what to do, not that it failed
      if (error.status === 404) await this.refreshStatus();
      if (results !== this.#latest) return;
      byId("results").removeAttribute("aria-busy");
      this.fail(error);
      return;
    }
    if (results !== this.#latest) return;
    this.#store(results);
    byId("results").removeAttribute("aria-busy");
    byId("problem").hidden = true;
    showSummary(results);
    if (!anchor) scrollTo({ top: 0, behavior: "instant" });
    measureHeader(); // it may have lost or got chips just now
    this.grid.show(results, anchor);
    this.dispatchEvent(new Event("results"));
  }

  #store(/** @type {Results} */ results) {
    const key = results.search.address;
    this.#cache.delete(key);
    this.#cache.set(key, results);
    for (const old of [...this.#cache.keys()].slice(0, -CACHED_ANSWERS)) this.#cache.delete(old);
  }

  // ---------- messages

  /** Shows an error until the next successful search. */
  fail(/** @type {unknown} */ error) {
    const { name, message, status } = error;
    if (name === "AbortError") return;
    if (status === 401 || (status === 404 && this.isEmpty)) return; // it is said elsewhere
    const problem = byId("problem");
    problem.textContent = message;
    problem.hidden = false;
    if (isViewerOpen()) this.say(message); // it covers the page
  }

  /** Confirms what has been done, for a few seconds. */
  say(/** @type {string} */ text) {
    const notice = byId("notice");
    // a modal dialog hides what is outside of it, also from screen readers
    const place = isViewerOpen() ? byId("viewer") : document.body;
    if (notice.parentElement !== place) place.append(notice);
    notice.textContent = text;
    clearTimeout(this.#saying);
    const milliseconds = Math.max(4000, 60 * text.length);
    this.#saying = window.setTimeout(() => notice.replaceChildren(), milliseconds);
  }

  #saying = 0;
}

/** Publishes the height of the header, which grows with the chips, to the style sheet. */
function measureHeader() {
  const header = byId("header");
  const covered = getComputedStyle(header).position === "sticky" ? header.offsetHeight : 0;
  document.documentElement.style.setProperty("--header", `${covered}px`);
}

const isViewerOpen = () => byId("viewer")?.open === true;

/** The id of the item that the address says is opened; 0: none. */
function openedId() {
  const id = Number(new URLSearchParams(location.search).get("open"));
  return isId(id) ? id : 0;
}

/** The page's address with a search, and with an item opened. */
function addressOf(/** @type {Search} */ { address: search }, id = 0) {
  const query = [search, id && `open=${id}`].filter(Boolean).join("&");
  return query ? `/?${query}` : "/";
}

/** The number of hits and of good matches; screen readers read it out. */
function showSummary(/** @type {Results} */ results) {
  const { search, total, length, weakFrom } = results;
  const some = (
    /** @type {number} */ number,
    /** @type {string} */ one,
    /** @type {string} */ many,
  ) => `${formatNumber(number)} ${number === 1 ? one : many}`;
  let text = some(total, "result", "results");
  if (search.isBrowsing) text = some(total, "item", "items");
  else if (weakFrom && weakFrom < total) {
    text = `${some(weakFrom, "good match", "good matches")} of ${formatNumber(total)}`;
  }
  if (total > length) text += `; the first ${formatNumber(length)} are shown`;
  byId("count").textContent = text;
  byId("no-match").hidden = !(weakFrom === 0 && total);
  const isNarrowed = search.filters.length > 0 || search.confidence > 0;
  byId("nothing").hidden = total > 0 || !(isNarrowed || !search.isBrowsing);
  byId("clear-filters").hidden = !isNarrowed;
  document.title = search.q.trim() ? `${search.q.trim()} · mmsearch` : "mmsearch";
}

/** Shows whether the server is unreachable, busy or back. */
function showConnection() {
  const banner = byId("banner");
  const { state, detail } = connection;
  const sentence = detail.replace(/[.\s]*$/, ".");
  if (state === "lost") wasLost = true;
  const texts = {
    ok: wasLost ? "The server is back." : "",
    lost: "The server does not answer. Trying again…",
    waiting: `${sentence} Trying again…`,
    denied: sentence,
  };
  banner.dataset.state = state;
  byId("banner-text").textContent = texts[state];
  byId("login").hidden = state !== "denied";
  if (state !== "ok") return;
  setTimeout(() => {
    if (connection.state !== "ok") return; // it is back, but loads its models: it is said later
    wasLost = false;
    byId("banner-text").replaceChildren();
  }, 3000);
}

/** Whether the server was unreachable and the banner still says that it is back. */
let wasLost = false;

export const app = new App();
void app.start();
