/** Actions on the selected hits: copy their paths, tag them, use them as examples. */

import { address, request } from "./api.js";
import { app } from "./app.js";
import { button, formatNumber, h } from "./grid.js";

/** Copies text; explains why where the browser forbids it (neither HTTPS nor loopback). */
export async function copy(/** @type {string} */ text, /** @type {string} */ said) {
  try {
    await navigator.clipboard.writeText(text);
    app.say(said);
  } catch {
    app.say(
      "The browser does not let this page copy: it allows it over HTTPS or on this machine only.",
    );
  }
}

class SelectionBar extends HTMLElement {
  #count = h("p", { role: "status" });
  #tag = h("input", {
    name: "tag",
    "aria-label": "Tag",
    placeholder: "Tag",
    list: "tags",
    required: true,
    maxlength: 200,
    autocomplete: "off",
  });
  #tags = h("datalist", { id: "tags" });

  connectedCallback() {
    this.append(
      this.#count,
      button("Copy paths", () => this.#copy()),
      h(
        "form",
        { submit: (/** @type {Event} */ event) => this.#addTag(event) },
        this.#tag,
        this.#tags,
        h("button", {}, "Add tag"),
      ),
      button("Good examples", () => this.#useAsExamples("like", "unlike")),
      button("Bad examples", () => this.#useAsExamples("unlike", "like")),
      button("Deselect", () => app.grid.deselect()),
    );
    this.#tag.addEventListener("focus", () => void this.#suggest(), { once: true });
    app.grid.addEventListener("selection", () => this.#show());
    app.addEventListener("search", () => {
      // ids mean other items in another collection
      if (app.search.index !== app.results.search.index) app.grid.deselect();
    });
    this.#show();
  }

  #show() {
    const { size } = app.grid.selected;
    if (!size && this.contains(document.activeElement)) void app.grid.focusOn(app.grid.current);
    this.hidden = size === 0;
    this.#count.textContent = size ? `${formatNumber(size)} selected` : "";
  }

  #copy() {
    const paths = [...app.grid.selected.values()].map(({ path }) => path);
    void copy(
      paths.join("\n"),
      `Copied ${formatNumber(paths.length)} ${paths.length === 1 ? "path" : "paths"}.`,
    );
  }

  async #suggest() {
    const tags = await request(address("tags", app.search)).catch(() => []);
    this.#tags.replaceChildren(
      ...tags.map((/** @type {any} */ { value }) => h("option", { value })),
    );
  }

  async #addTag(/** @type {Event} */ event) {
    event.preventDefault();
    const tag = this.#tag.value.trim();
    const hits = [...app.grid.selected.values()];
    if (!tag) return;
    try {
      await request(address("tags", app.search), {
        json: { tag, items: hits.map(({ id }) => id) },
      });
    } catch (error) {
      app.fail(error);
      return;
    }
    this.#tag.value = "";
    app.say(`Tagged ${formatNumber(hits.length)} as ${tag}.`);
    app.grid.deselect();
    await app.refresh(); // hits and filters know the tag
  }

  /** Moves the query towards the selected hits, or away from them. */
  #useAsExamples(/** @type {"like" | "unlike"} */ as, /** @type {"like" | "unlike"} */ not) {
    const ids = [...app.grid.selected.keys()];
    const chosen = [...new Set([...app.search[as], ...ids])];
    const others = app.search[not].filter((id) => !ids.includes(id));
    app.grid.deselect();
    app.navigate(app.search.with({ [as]: chosen, [not]: others }));
  }
}

customElements.define("selection-bar", SelectionBar);
