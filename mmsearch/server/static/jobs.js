/**
 * Indexing: its progress, the form that starts it while nothing is indexed yet, and the dialog
 * about the collection.
 *
 * @typedef {{id: string, paths: string[] | null, state: "running" | "done" | "cancelled" | "failed",
 *   done: number, total: number | null, limiting: string | null, report: Record<string, any> | null,
 *   error: string | null}} Job
 */

import { address, connection, request } from "./api.js";
import { app } from "./app.js";
import { button, byId, formatNumber, h, kindName } from "./grid.js";

const counted = (/** @type {number} */ count, /** @type {string} */ noun) =>
  `${formatNumber(count)} ${noun}${count === 1 ? "" : "s"}`;

/** What a job is limited by. @type {Record<string, string>} */
const STAGES = {
  scan: "listing files",
  read: "reading files",
  decode: "decoding",
  encode: "the model",
  store: "storing",
};

/** The progress of the running job, with a button that cancels it. */
class IndexProgress extends HTMLElement {
  /** @type {EventSource | null} */
  #events = null;
  #job = "";
  /** When it was last asked what is stored, and how many files were done when there was more. */
  #asked = 0;
  #doneBefore = 0;
  #bar = h("progress", { "aria-label": "Indexing" });
  #text = h("span");
  #cancel = button("Cancel", () => void this.#stop());

  connectedCallback() {
    this.hidden = true;
    this.append(this.#bar, this.#text, this.#cancel);
    app.addEventListener("status", () => void this.#find());
  }

  /** Whether a job is running. */
  get isRunning() {
    return this.#events !== null;
  }

  /** Follows a running job, which another page or `--watch` may have started. */
  async #find() {
    if (this.isRunning) return;
    const jobs = await request("/api/v1/jobs").catch(() => []);
    const job = jobs.find(({ state }) => state === "running");
    if (job) this.follow(job);
  }

  follow(/** @type {Job} */ job) {
    this.#events?.close();
    this.#job = job.id;
    this.#doneBefore = app.isEmpty ? 0 : job.done;
    this.#show(job);
    this.#events = new EventSource(`/api/v1/jobs/${job.id}/events`);
    this.#events.addEventListener("job", (event) => this.#show(JSON.parse(event.data)));
    // the browser reconnects by itself, unless a restarted server does not know the job
    this.#events.addEventListener("error", async () => {
      if (this.#events?.readyState !== EventSource.CLOSED) return;
      this.#end();
      await connection.lost();
      await app.refresh();
    });
    showEmpty();
  }

  #show(/** @type {Job} */ job) {
    const { state, done, total, limiting } = job;
    this.hidden = false;
    if (total) {
      this.#bar.max = total;
      this.#bar.value = done;
    } else this.#bar.removeAttribute("value");
    const count = total ? `${formatNumber(done)} of ${counted(total, "file")}` : counted(done, "file");
    this.#text.textContent = `Indexing: ${count}${limiting ? `, limited by ${STAGES[limiting]}` : ""}`;
    if (state === "running" && done > 2 * this.#doneBefore) void this.#showMore(done);
    if (state === "running") return;
    this.#end();
    if (state !== "failed") app.say(ending(job));
    void app.refresh().then(() => state === "failed" && app.fail(new Error(ending(job))));
  }

  /** Shows what is stored by now, once its number has doubled, to who has nothing else in view. */
  async #showMore(/** @type {number} */ done) {
    if (Date.now() - this.#asked < 1000) return;
    this.#asked = Date.now();
    const wasEmpty = app.isEmpty;
    await app.refreshStatus();
    if (app.isEmpty) return;
    this.#doneBefore = done;
    if (wasEmpty || (app.search.isBrowsing && scrollY === 0)) await app.refresh();
  }

  #end() {
    this.#events?.close();
    this.#events = null;
    if (this.contains(document.activeElement)) byId("results").focus();
    this.hidden = true;
  }

  async #stop() {
    try {
      await request(`/api/v1/jobs/${this.#job}`, { method: "DELETE" });
    } catch (error) {
      app.fail(error);
    }
  }
}

/** The outcome of a job, in a sentence. */
function ending(/** @type {Job} */ { state, report, error }) {
  if (state === "failed") return `Indexing failed: ${error ?? "see the server's messages"}`;
  const names = ["added", "updated", "renamed", "removed", "skipped"];
  const counts = names
    .filter((name) => report?.[name])
    .map((name) => `${name} ${formatNumber(report?.[name])}`);
  const word = state === "cancelled" ? "Indexing was cancelled" : "Indexed";
  const changes = counts.join(", ") || "nothing new or changed was found";
  // of a folder that is away, of kinds that are passed over
  const warnings = (report?.warnings ?? []).map((/** @type {string} */ one) => `${one}.`);
  return [`${word}: ${changes}.`, ...warnings].join("\n");
}

customElements.define("index-progress", IndexProgress);

/** A field for a folder to index. */
function folderForm(/** @type {string} */ id) {
  const field = h("input", {
    id,
    name: "folder",
    required: true,
    placeholder: "/home/me/Pictures",
    autocomplete: "off",
    spellcheck: "false",
  });
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const isStarted = await start([field.value.trim()]);
    if (isStarted) field.value = "";
  };
  return h(
    "form",
    { class: "folder", submit },
    h("label", { for: id }, "Folder to index"),
    field,
    h("button", {}, "Index it"),
  );
}

/**
 * Starts indexing.
 * @param {string[]=} paths folders; by default all that was indexed before
 * @returns whether it has started
 */
async function start(paths) {
  try {
    const job = await request(address("jobs", app.search), {
      json: paths ? { paths } : {},
      repeat: false,
    });
    about.close();
    document.querySelector("index-progress").follow(job);
    byId("problem").hidden = true;
    return true;
  } catch (error) {
    about.close();
    app.fail(error);
    return false;
  }
}

/** Explains how to begin while nothing is indexed. */
function showEmpty() {
  const section = byId("empty");
  section.hidden = !app.isEmpty;
  if (section.hidden) return;
  const { isRunning } = document.querySelector("index-progress");
  const state = `${isRunning} ${app.status?.writable}`;
  if (section.dataset.state === state) return; // a folder may be half typed
  section.dataset.state = state;
  section.querySelector("h2").textContent = isRunning
    ? "The first results come soon"
    : "Nothing is indexed yet";
  const command = h(
    "p",
    {},
    "Index a folder of photos, texts and sounds: ",
    h("code", {}, "mmsearch index FOLDER"),
  );
  const todo = app.status?.writable ? folderForm("first-folder") : command;
  section.replaceChildren(section.querySelector("h2"), ...(isRunning ? [] : [todo]));
}

app.addEventListener("status", showEmpty);

// ---------- the collection

const about = h("dialog", { id: "about", "aria-labelledby": "about-title" });
document.body.append(about);

async function showAbout() {
  await app.refreshStatus();
  const { status } = app;
  if (!status) return;
  const kinds = Object.entries(status.items).filter(([, count]) => Number(count));
  const facts = {
    Items:
      kinds.map(([kind, count]) => counted(count, kindName(kind))).join(", ") || "none",
    Folders: status.sources.join("\n") || "none",
    Model: status.model ?? "none yet",
    "On disk":
      status.bytes === null ? "not known" : `${formatNumber(Math.round(status.bytes / 2 ** 20))} MiB`,
    Index: status.index,
    Version: status.version,
  };
  const failed = h("div");
  about.replaceChildren(
    h("h2", { id: "about-title" }, "Index"),
    h(
      "dl",
      {},
      ...Object.entries(facts).flatMap(([term, value]) => [
        h("dt", {}, term),
        h("dd", {}, String(value ?? "")),
      ]),
    ),
    failed,
    status.writable && folderForm("next-folder"),
    h(
      "form",
      { method: "dialog" },
      status.writable &&
        button("Bring it up to date", () => void start()),
      h("button", {}, "Close"),
    ),
  );
  if (!about.open) about.showModal();
  if (status.failures) void listFailures(failed);
}

async function listFailures(/** @type {HTMLElement} */ into) {
  const failures = await request(address("errors", app.search)).catch(() => []);
  const rows = failures
    .slice(0, 100)
    .map((/** @type {any} */ { path, reason }) => h("li", {}, `${path}: ${reason}`));
  const more = failures.length - rows.length;
  if (more > 0) {
    const command = h("code", {}, "mmsearch errors");
    rows.push(h("li", {}, `and ${formatNumber(more)} more: `, command));
  }
  into.append(
    h(
      "details",
      {},
      h("summary", {}, `Files that could not be used: ${formatNumber(failures.length)}`),
      h("ul", {}, ...rows),
    ),
  );
}

byId("show-index").addEventListener("click", () => void showAbout());
