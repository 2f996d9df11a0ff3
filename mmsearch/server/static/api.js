/**
 * Client of the HTTP API: a search, its address and its request; its results, loaded page by page;
 * requests that are repeated when the server is busy or unreachable; addresses of media.
 *
 * @typedef {{start: number, end: number, unit: "line" | "second" | "page" | "slide" | "section"}} Span
 * @typedef {{rank: number | null, score: number, standardised: number | null, share: number}} Signal
 * @typedef {{id: number, path: string, modality: "image" | "text" | "audio" | "video" | "document",
 *   score: number, confidence: number | null, span: Span | null, caption: string | null,
 *   metadata: Record<string, any>, signals: Record<string, Signal>}} Hit
 * @typedef {{type: "text" | "upload" | "item", value: string, weight: number}} Part
 */

/** Hits per request; LIMIT is a multiple of it. */
export const PAGE = 50;

/** Hits that can be scrolled to. */
export const LIMIT = 10_000;

// ---------- a search and its address

/** An immutable search; `with` derives another one. */
export class Search {
  /** The words in the box. */
  q = "";
  /** @type {Part[]} examples, and words that were kept as a part */
  parts = [];
  /** @type {number[]} ids of good examples */
  like = [];
  /** @type {number[]} ids of bad examples */
  unlike = [];
  /** @type {Record<string, unknown>[]} filters of one key each, in the `$` form */
  filters = [];
  sort = "relevance";
  /** Hits with less confidence are left out. */
  confidence = 0;
  /** The collection that is searched; "" is the first one served. */
  index = "";

  /** @param {Partial<Search>} values */
  constructor(values = {}) {
    Object.assign(this, values);
    Object.freeze(this);
  }

  /** @param {Partial<Search>} changes */
  with(changes) {
    return new Search({ ...this, ...changes });
  }

  /**
   * Reads a search from an address; invalid values are left out.
   * @param {URLSearchParams} address
   */
  static parse(address) {
    const ids = (/** @type {string} */ name) =>
      (address.get(name) ?? "")
        .split(",")
        .map(Number)
        .filter(isId);
    const confidence = Number(address.get("confidence"));
    const sort = address.get("sort") ?? "";
    return new Search({
      q: address.get("q") ?? "",
      parts: address.getAll("part").flatMap(parsePart),
      like: ids("like"),
      unlike: ids("unlike"),
      filters: address.getAll("where").flatMap(parseFilter),
      sort: ["newest", "oldest"].includes(sort) ? sort : "relevance",
      confidence: confidence > 0 && confidence <= 1 ? confidence : 0,
      index: address.get("index") ?? "",
    });
  }

  /** Its address: the part after the question mark. */
  get address() {
    const address = new URLSearchParams();
    if (this.q) address.set("q", this.q);
    for (const { type, value, weight } of this.parts) {
      address.append("part", `${type}:${value}:${weight}`);
    }
    if (this.like.length) address.set("like", this.like.join());
    if (this.unlike.length) address.set("unlike", this.unlike.join());
    // JSON escapes names that are not valid Unicode, which an address could not hold
    for (const filter of this.filters) address.append("where", JSON.stringify(filter));
    if (this.sort !== "relevance") address.set("sort", this.sort);
    if (this.confidence) address.set("confidence", String(this.confidence));
    if (this.index) address.set("index", this.index);
    return address.toString();
  }

  /** Whether there is no query: all items, the newest first. */
  get isBrowsing() {
    return !this.q.trim() && !this.parts.length && !this.like.length && !this.unlike.length;
  }

  /** The JSON of `POST /api/v1/search`, but for `k` and `offset`. */
  get request() {
    const { like, unlike } = this;
    const words = this.q.trim();
    const parts = [
      ...(words ? [{ text: words, weight: 1 }] : []),
      ...this.parts.map(({ type, value, weight }) => ({
        [type]: type === "item" ? Number(value) : value,
        weight,
      })),
    ];
    // examples move a query; without a query they are the query
    const isMoved = parts.length > 0;
    if (!isMoved) parts.push(...like.map((item) => ({ item, weight: 1 })));
    if (!isMoved) parts.push(...unlike.map((item) => ({ item, weight: -1 })));
    return {
      parts,
      ...(isMoved && like.length && { like }),
      ...(isMoved && unlike.length && { unlike }),
      ...(this.filters.length && { where: { $and: this.filters } }),
      ...(this.sort !== "relevance" && { sort: this.sort }),
      ...(this.confidence && !this.isBrowsing && { min_confidence: this.confidence }),
      ...(this.index && { index: this.index }),
    };
  }
}

/** Whether it can be the id of an item; larger numbers would change on their way through JSON. */
export const isId = (/** @type {number} */ id) => Number.isSafeInteger(id) && id > 0;

/** @returns {Part[]} the part, or none */
function parsePart(/** @type {string} */ written) {
  const found = /^(text|upload|item):(.+):(-?\d{1,9}(?:\.\d+)?)$/s.exec(written);
  if (!found) return [];
  const [, type, value, weight] = found;
  if (type === "item" && !isId(Number(value))) return [];
  if (type === "upload" && !/^[0-9a-f]+$/.test(value)) return []; // it becomes part of an address
  return [{ type, value, weight: Number(weight) }];
}

/** @returns {Record<string, unknown>[]} the filter, or none */
function parseFilter(/** @type {string} */ written) {
  try {
    const filter = JSON.parse(written);
    const isOne = filter?.constructor === Object && Object.keys(filter).length === 1;
    return isOne ? [filter] : [];
  } catch {
    return [];
  }
}

// ---------- its answer

/** The hits of a search, as far as they have been loaded. */
export class Results {
  /** @type {Map<number, Hit[]>} hits by the number of their page */
  #pages = new Map();
  /** @type {Map<number, Promise<void>>} */
  #loading = new Map();
  #total = 0;
  /** Upper bound of the number of hits, from pages that were not full. */
  #end = Infinity;
  /** @type {number | null} position of the first weak match; null if that is not known */
  weakFrom = null;

  #abort = new AbortController();

  constructor(/** @type {Search} */ search) {
    this.search = search;
  }

  /** Aborts the requests under way. */
  abort() {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.#loading.clear();
  }

  /** Number of candidates; an upper bound until the last page is loaded. */
  get total() {
    return this.#total;
  }

  /** Number of hits that can be scrolled to. */
  get length() {
    return Math.min(this.#total, LIMIT);
  }

  get pageCount() {
    return Math.ceil(this.length / PAGE);
  }

  /** @returns {Hit | undefined} the hit at a position, from 0, if it has been loaded */
  at(/** @type {number} */ position) {
    return this.#pages.get(Math.floor(position / PAGE))?.[position % PAGE];
  }

  page(/** @type {number} */ number) {
    return this.#pages.get(number);
  }

  /** The position of a loaded item, or -1. */
  positionOf(/** @type {number} */ id) {
    for (const [number, hits] of this.#pages) {
      const found = hits.findIndex((hit) => hit.id === id);
      if (found >= 0) return number * PAGE + found;
    }
    return -1;
  }

  /** Loads a page unless it is there; a second call for the same page waits for the first. */
  load(/** @type {number} */ number) {
    if (this.#pages.has(number)) return Promise.resolve();
    let loading = this.#loading.get(number);
    if (!loading) {
      loading = this.#load(number);
      this.#loading.set(number, loading);
    }
    return loading;
  }

  loadAt(/** @type {number} */ position) {
    return this.load(Math.floor(position / PAGE));
  }

  async #load(/** @type {number} */ number) {
    const { signal } = this.#abort;
    const offset = number * PAGE;
    const json = { ...this.search.request, k: PAGE, offset };
    let answer;
    try {
      answer = await request("/api/v1/search", { json, signal });
    } catch (error) {
      if (!signal.aborted) this.#loading.delete(number); // so that it can be asked for again
      throw error;
    }
    const { hits } = answer;
    this.#pages.set(number, hits);
    this.weakFrom = answer.weak_from;
    // a page is not full where the hits end, or copies and hits of low confidence were left out
    if (hits.length < PAGE) this.#end = Math.min(this.#end, offset + hits.length);
    this.#total = Math.min(answer.total, this.#end);
  }
}

// ---------- requests

/** An error answer: what went wrong and what to do (RFC 9457). */
export class Problem extends Error {
  constructor(/** @type {number} */ status, /** @type {string} */ detail) {
    super(detail);
    this.status = status;
  }
}

/**
 * Whether the server is reachable. Requests that it cannot take now wait and are repeated; "change"
 * events say why they wait.
 */
class Connection extends EventTarget {
  /** @type {"ok" | "lost" | "waiting" | "denied"} */
  state = "ok";
  detail = "";
  /** @type {Promise<void> | null} */
  #recovery = null;

  set(/** @type {Connection["state"]} */ state, detail = "") {
    if (state === this.state && detail === this.detail) return;
    this.state = state;
    this.detail = detail;
    this.dispatchEvent(new Event("change"));
  }

  /** Resolves when the server answers again. */
  lost() {
    this.set("lost");
    this.#recovery ??= this.#poll().finally(() => (this.#recovery = null));
    return this.#recovery;
  }

  async #poll() {
    for (let seconds = 1; ; seconds = Math.min(seconds * 2, 15)) {
      await sleep(seconds);
      try {
        await fetch("/healthz", { cache: "no-store" });
        this.set("ok");
        return;
      } catch {
        // still gone
      }
    }
  }
}

export const connection = new Connection();

/**
 * Sends a request and returns the JSON of the answer; waits while the server is busy or away.
 * @param {string} path
 * @param {{method?: string, json?: unknown, body?: Blob, signal?: AbortSignal, repeat?: boolean}} options
 *   repeat: whether to send it again when the server is back; false for what would be done twice
 * @throws {Problem} the server refuses
 * @throws {DOMException} AbortError: the answer is not wanted any more
 */
export async function request(path, { method, json, body, signal, repeat = true } = {}) {
  const options = {
    method: method ?? (json || body ? "POST" : "GET"),
    body: json ? JSON.stringify(json) : body,
    headers: json ? { "Content-Type": "application/json" } : undefined,
    signal,
  };
  for (;;) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      signal?.throwIfAborted();
      if (!repeat) throw new Problem(0, "The server does not answer.");
      await abortable(connection.lost(), signal);
      continue;
    }
    if (response.ok) {
      connection.set("ok");
      return response.status === 204 ? null : response.json();
    }
    const detail = await detailOf(response);
    if (response.status === 401) connection.set("denied", detail);
    if (response.status !== 429 && response.status !== 503)
      throw new Problem(response.status, detail);
    connection.set("waiting", detail);
    const seconds = Number(response.headers.get("Retry-After")) || 2;
    await abortable(sleep(Math.min(seconds, 30)), signal);
  }
}

async function detailOf(/** @type {Response} */ response) {
  const problem = await response.json().catch(() => ({}));
  return String(problem.detail ?? problem.title ?? `The server answered ${response.status}.`);
}

const sleep = (/** @type {number} */ seconds) =>
  new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** @template T @returns {Promise<T>} rejects at once when the signal aborts */
function abortable(/** @type {Promise<T>} */ promise, /** @type {AbortSignal=} */ signal) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    promise.then(resolve, reject);
  });
}

// ---------- addresses

/** The address of something of an item, in the collection that is searched. */
export function itemAddress(
  /** @type {number} */ id,
  /** @type {string} */ what,
  /** @type {Search} */ { index },
  /** @type {Record<string, string | number>} */ query = {},
) {
  const written = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) written.set(name, String(value));
  if (index) written.set("index", index);
  return `/api/v1/items/${id}${what && `/${what}`}${written.size ? `?${written}` : ""}`;
}

/** An address of another resource, for the collection that is searched. */
export const address = (/** @type {string} */ path, /** @type {Search} */ { index }) =>
  `/api/v1/${path}${index ? `?${new URLSearchParams({ index })}` : ""}`;

/**
 * The address of a hit's picture, of the moment or page that matched.
 * @param {Hit} hit
 * @param {256 | 1024} size pixels of the longest side
 * @param {Search} search
 * @param {Span | null} span
 */
export function thumbnailAddress(hit, size, search, span = hit.span) {
  const { modified, size: bytes } = hit.metadata;
  return itemAddress(hit.id, "thumbnail", search, {
    size,
    v: `${modified}-${bytes}`, // with it, the answer may be kept for ever
    ...(span?.unit === "second" && hit.modality !== "audio" && { at: span.start }),
    ...(span?.unit === "page" && { page: span.start }),
  });
}
