/** Global keyboard shortcuts, and the dialog that lists all of them. */

import { app } from "./app.js";
import { h } from "./grid.js";

/** @type {[string, string][]} */
const KEYS = [
  ["/", "go to the search box"],
  ["↓ in the box", "go to the results"],
  ["Shift Enter in the box", "keep these words as a part of their own"],
  ["← → ↑ ↓ Home End Page↑ Page↓", "move among the results"],
  ["Enter", "open a result"],
  ["← →", "in an opened result: the previous, the next"],
  ["+ − 0", "in an opened picture: larger, smaller, whole"],
  ["[ ]", "in an opened document: the page before, the page after"],
  ["m, n", "more like this, less like this"],
  ["p", "play or pause a sound"],
  ["x or Space", "select"],
  ["Shift and a move", "select a range"],
  ["f", "show or hide the filters"],
  ["Esc", "close what is on top"],
  ["?", "this list"],
];

const list = h(
  "dialog",
  { id: "keys", "aria-labelledby": "keys-title" },
  h("h2", { id: "keys-title" }, "Keys"),
  h("dl", {}, ...KEYS.flatMap(([key, does]) => [h("dt", {}, key), h("dd", {}, does)])),
  h("form", { method: "dialog" }, h("button", {}, "Close")),
);
document.body.append(list);
document.getElementById("show-keys")?.addEventListener("click", () => list.showModal());

/** Whether a key pressed there is text input. */
const isTyped = (/** @type {EventTarget | null} */ target) =>
  target instanceof Element && target.matches("input:not([type=range]), select, textarea");

const isOpen = () => document.querySelector("dialog[open]") !== null;

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const clears = isTyped(event.target) && event.target.value;
  if (event.key === "Escape" && !isOpen() && !clears) closeOne();
  if (isTyped(event.target) || isOpen()) return;
  const position = app.grid.current;
  const hit = app.grid.contains(document.activeElement) ? app.results.at(position) : undefined;
  /** @type {Record<string, () => unknown>} */
  const actions = {
    "/": () => document.getElementById("q")?.focus(),
    "?": () => list.showModal(),
    f: () => document.getElementById("show-facets")?.click(),
    m: () => hit && app.searchByItem(hit.id),
    n: () => hit && app.searchByItem(hit.id, -1),
  };
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
});

/** Esc without an open dialog clears the selection, or closes the filters on a small screen. */
function closeOne() {
  if (app.grid.selected.size) app.grid.deselect();
  else if (document.body.dataset.facets === "open" && matchMedia("(width < 60rem)").matches) {
    document.getElementById("show-facets")?.click();
  }
}
