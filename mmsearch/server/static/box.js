/**
 * The search box: typed words; photos and sounds that are dropped, pasted or chosen; a chip for each
 * part and filter of the search; the controls for order, confidence and collection.
 *
 * @typedef {import("./api.js").Part} Part
 */

import { itemAddress, request } from "./api.js";
import { app } from "./app.js";
import { button, byId, h, kindName, nameOf, period, relativeFolder } from "./grid.js";

/** Pause in typing after which it is searched for, in milliseconds. */
const DEBOUNCE = 100;

/** The label of a filter. */
function filterLabel(/** @type {Record<string, any>} */ filter) {
  const [[key, value]] = Object.entries(filter);
  if (typeof value === "string") {
    if (key === "modality") return kindName(value);
    if (key === "folder") return relativeFolder(value, app.status?.sources ?? []);
    if (key === "date") return period(value);
    if (key === "near")
      return `within ${value.split(",")[2]} km of ${value.split(",", 2).join(", ")}`;
    return `${key}: ${value}`;
  }
  if (key === "date" && value?.$gte && value?.$lte)
    return `${period(value.$gte)} – ${period(value.$lte)}`;
  return `${key}: ${JSON.stringify(value)}`;
}

/** @type {Map<string, Promise<string>>} */
const names = new Map();

/** The file name of an item, cached. */
function itemName(/** @type {string} */ id) {
  const path = itemAddress(Number(id), "", app.search);
  if (!names.has(path)) {
    names.set(
      path,
      request(path)
        .then((item) => nameOf(item.path))
        .catch(() => {
          names.delete(path);
          return `item ${id}`;
        }),
    );
  }
  return names.get(path);
}

class SearchBox extends HTMLElement {
  #form = this.querySelector("form");
  #input = byId("q");
  /** The timer of input that has not been searched for yet; 0: none. */
  #timer = 0;
  /** Whether the current history entry comes from typing, which then replaces it. */
  #isTyped = false;
  /** @type {Map<string, any>} chips by what they stand for, so that a changed one keeps the focus */
  #chips = new Map();

  connectedCallback() {
    const input = this.#input;
    input.addEventListener("input", (/** @type {InputEvent} */ event) => {
      if (!event.isComposing) this.#debounce();
    });
    input.addEventListener("compositionend", () => this.#debounce());
    input.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this.#key(event));
    input.addEventListener("blur", () => (this.#isTyped = false));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#flush();
      app.navigate(app.search); // if it failed, once more
    });
    byId("keep-words").addEventListener("click", () => this.#keepWords());
    byId("choose-file").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", () => {
      void this.#upload([...byId("file").files]); // the list is emptied with the field
      byId("file").value = "";
    });
    byId("sort").addEventListener("change", () => {
      const sort = byId("sort").value;
      // the newest first is what comes without a query: a later one is to start with the best
      const isDefault = app.search.isBrowsing && sort === "newest";
      app.navigate(app.search.with({ sort: isDefault ? "relevance" : sort }));
    });
    byId("confidence").addEventListener("input", () => {
      this.#showConfidence(Number(byId("confidence").value));
      this.#debounce(() => {
        app.navigate(app.search.with({ confidence: Number(byId("confidence").value) }), {
          replace: true,
        });
      });
    });
    byId("index").addEventListener("change", () => this.#changeIndex(byId("index").value));
    this.#acceptDrops();
    app.addEventListener("search", () => {
      this.#isTyped = false; // what is typed next must not replace this step
      if (!this.#timer) input.value = app.search.q; // else newer input is about to be searched for
      this.#show();
    });
    app.addEventListener("status", () => this.#showChips()); // it tells the names of folders
    // typed before this module was loaded
    if (input.value && document.activeElement === input) this.#typed();
    else input.value = app.search.q;
    this.#show();
    void this.#listIndexes();
  }

  // ---------- typing

  /** Searches for what is typed, then runs `action`, once input has paused. */
  #debounce(action = () => {}) {
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => {
      this.#typed();
      action();
    }, DEBOUNCE);
  }

  #typed() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const q = this.#input.value;
    if (q === app.search.q) return;
    app.navigate(app.search.with({ q }), { replace: this.#isTyped });
    this.#isTyped = q === app.search.q;
  }

  /** Searches now; what is typed next gets a history entry of its own. */
  #flush() {
    this.#typed();
    this.#isTyped = false;
  }

  #key(/** @type {KeyboardEvent} */ event) {
    if (event.isComposing) return; // the key is for the input method
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.#flush();
      void app.grid.focusOn(0);
    } else if (event.key === "Enter" && event.shiftKey) {
      event.preventDefault();
      this.#keepWords();
    } else if (event.key === "Escape" && this.#input.value === "") this.#input.blur();
  }

  /** Turns the words in the box into a part with its own weight. */
  #keepWords() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    const value = this.#input.value.trim();
    if (!value) return;
    const parts = [...app.search.parts, { type: "text", value, weight: 1 }];
    app.navigate(app.search.with({ q: "", parts }));
    this.#input.focus();
  }

  // ---------- examples

  #acceptDrops() {
    const hasFiles = (/** @type {DragEvent} */ event) =>
      event.dataTransfer?.types.includes("Files");
    const drop = byId("drop");
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      drop.classList.add("shown");
    });
    addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) drop.classList.remove("shown");
    });
    addEventListener("drop", (event) => {
      drop.classList.remove("shown");
      if (!hasFiles(event)) return;
      event.preventDefault();
      void this.#upload(event.dataTransfer?.files ?? []);
    });
    addEventListener("paste", (event) => {
      const { files, types } = event.clipboardData ?? {};
      const isText = types?.includes("text/plain") && event.target instanceof HTMLInputElement;
      if (!files?.length || isText) return; // some programs copy a picture of the text as well
      event.preventDefault();
      void this.#upload(files);
    });
  }

  /** Uploads photos and sounds and adds them to the search as parts. */
  async #upload(/** @type {Iterable<File>} */ files) {
    const type = "upload";
    /** @type {Part[]} */
    const added = [];
    for (const body of files) {
      try {
        const { id } = await request("/api/v1/uploads", { body, repeat: false });
        added.push({ type, value: id, weight: 1 });
      } catch (error) {
        app.fail(error);
      }
    }
    if (!added.length) return;
    const others = app.search.parts.filter(
      (part) => part.type !== type || !added.some(({ value }) => value === part.value),
    );
    app.navigate(app.search.with({ parts: [...others, ...added] }));
  }

  // ---------- chips

  /** Brings the controls in line with the search. */
  #show() {
    const { search } = app;
    const sort = byId("sort");
    const [relevance] = sort.options; // there is none without a query
    relevance.hidden = relevance.disabled = search.isBrowsing;
    sort.value = search.isBrowsing && search.sort === "relevance" ? "newest" : search.sort;
    byId("index").value = search.index;
    byId("confidence").value = String(search.confidence);
    this.#showConfidence(search.confidence);
    this.#showChips();
  }

  #showChips() {
    const { search } = app;
    const wanted = new Map();
    for (const part of search.parts) {
      wanted.set(`part ${part.type} ${part.value}`, () => this.#partChip(part));
    }
    for (const name of ["like", "unlike"]) {
      if (search[name].length)
        wanted.set(`${name} ${search[name]}`, () => this.#examplesChip(name));
    }
    for (const filter of search.filters) {
      wanted.set(`filter ${JSON.stringify(filter)} ${app.status !== null}`, () =>
        this.#filterChip(filter),
      );
    }
    for (const [key, chip] of this.#chips) {
      if (wanted.has(key)) continue;
      const hadFocus = chip.contains(document.activeElement);
      chip.remove();
      this.#chips.delete(key);
      if (hadFocus) this.#input.focus();
    }
    for (const [key, make] of wanted) {
      if (!this.#chips.has(key)) this.#chips.set(key, make());
      const chip = this.#chips.get(key);
      if (!chip.isConnected) byId("chips").append(chip);
    }
    for (const part of search.parts) {
      this.#chips.get(`part ${part.type} ${part.value}`).update?.(part);
    }
  }

  #showConfidence(/** @type {number} */ confidence) {
    const output = this.ownerDocument.querySelector("output[for=confidence]");
    if (output) output.textContent = confidence ? `≥ ${confidence.toFixed(2)}` : "any";
  }

  /** A part with its weight; "not" makes the weight negative. */
  #partChip(/** @type {Part} */ { type, value }) {
    const negate = () => this.#setWeight(type, value, (weight) => -weight);
    const not = button("not", negate, { "aria-pressed": "false" });
    const weight = h("input", {
      type: "number",
      min: 0,
      max: 10,
      step: 0.25,
      "aria-label": "Weight",
      title: "Weight",
      input: () => {
        const given = Math.abs(Number(weight.value));
        if (weight.value === "" || !Number.isFinite(given)) return;
        this.#debounce(() => this.#setWeight(type, value, (old) => (old < 0 ? -given : given)));
      },
    });
    const remove = () => app.navigate(app.search.with({ parts: this.#others(type, value) }));
    const label = { text: value, item: `item ${value}`, upload: "your example" }[type];
    const chip = this.#chip(label, remove, not, weight);
    if (type === "item") void itemName(value).then(chip.rename);
    if (type !== "text") {
      const source =
        type === "item"
          ? itemAddress(Number(value), "thumbnail", app.search, { size: 256 })
          : `/api/v1/uploads/${value}/thumbnail`;
      const image = h("img", {
        alt: "",
        src: source,
        error: () => image.replaceWith(h("span", { class: "sound", "aria-hidden": "true" }, "♪")),
      });
      chip.prepend(image);
    }
    chip.update = (/** @type {Part} */ part) => {
      not.setAttribute("aria-pressed", String(part.weight < 0));
      chip.classList.toggle("negative", part.weight < 0);
      if (document.activeElement !== weight) weight.value = String(Math.abs(part.weight));
    };
    return chip;
  }

  #others(/** @type {string} */ type, /** @type {string} */ value) {
    return app.search.parts.filter((part) => part.type !== type || part.value !== value);
  }

  #setWeight(
    /** @type {string} */ type,
    /** @type {string} */ value,
    /** @type {(old: number) => number} */ change,
  ) {
    const parts = app.search.parts.map((part) =>
      part.type === type && part.value === value ? { ...part, weight: change(part.weight) } : part,
    );
    app.navigate(app.search.with({ parts }), { replace: true });
  }

  #examplesChip(/** @type {"like" | "unlike"} */ name) {
    const word = name === "like" ? "good" : "bad";
    const count = app.search[name].length;
    const label = `${count} ${word} example${count > 1 ? "s" : ""}`;
    return this.#chip(label, () => app.navigate(app.search.with({ [name]: [] })));
  }

  #filterChip(/** @type {Record<string, unknown>} */ filter) {
    const chip = this.#chip(filterLabel(filter), () => app.unfilter(filter));
    chip.classList.add("filter");
    return chip;
  }

  #chip(
    /** @type {string} */ text,
    /** @type {() => void} */ remove,
    /** @type {any[]} */ ...controls
  ) {
    const label = h("span", { class: "label" });
    const remover = button("×", remove);
    const chip = h("li", { class: "chip" }, label, ...controls, remover);
    chip.rename = (/** @type {string} */ name) => {
      label.textContent = label.title = name;
      remover.setAttribute("aria-label", `Remove ${name}`);
    };
    chip.rename(text);
    return chip;
  }

  // ---------- collections

  async #listIndexes() {
    const indexes = await request("/api/v1/indexes").catch(() => []);
    const select = byId("index");
    select.replaceChildren(
      ...indexes.map((/** @type {any} */ one) =>
        h("option", { value: one.default ? "" : one.name }, one.name),
      ),
    );
    select.value = app.search.index;
    select.closest("label").hidden = indexes.length < 2;
  }

  /** Words and uploads are valid in any collection; ids and filters are not. */
  #changeIndex(/** @type {string} */ index) {
    const parts = app.search.parts.filter(({ type }) => type !== "item");
    app.navigate(app.search.with({ index, parts, like: [], unlike: [], filters: [] }));
  }
}

customElements.define("search-box", SearchBox);
