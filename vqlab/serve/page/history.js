// The history of judged images: filter, table, export.

import { download, json } from "./api.js";
import { badge, byId, element, nameElement, number } from "./dom.js";

const PAGE = 100;
const HEAD = ["Time", "Image", "Verdict", "Your verdict", "Score", "Category", "Version", "Used for"];
const TIME = { dateStyle: "short", timeStyle: "short" };
const ROLES = { train: "training", threshold: "thresholds", test: "test" };

/** The tab of the history. */
export class HistoryView {
  constructor(categories) {
    this.categories = categories;
    this.node = byId("history");
    this.rows = 0;
  }

  show(category) {
    if (!this.form) this.#build(category);
    this.#load(true);
  }

  #build(category) {
    const choice = (name, label, values) => element("label", {}, `${label} `,
      element("select", { name }, values.map(([value, text]) => element("option", { value, selected: name === "category" && value === category }, text))));
    const names = this.categories().map((each) => [each.category, each.category]);
    this.form = element("form", { class: "tools", onsubmit: (event) => event.preventDefault(), onchange: () => this.#load(true) },
      choice("category", "Category", [["", "all"], ...names]),
      choice("verdict", "Verdict", [["", "all"], ["reject", "reject"], ["review", "review"], ["pass", "pass"]]),
      choice("person", "Your verdict", [["", "all"], ["good", "good"], ["defect", "defect"], ["unsure", "unsure"], ["none", "none"]]),
      element("label", {}, "Name ", element("input", { type: "search", name: "name" })),
      element("label", {}, "From ", element("input", { type: "date", name: "since" })),
      element("label", {}, "To ", element("input", { type: "date", name: "until" })));
    this.counts = element("p", { class: "counts", role: "status" });
    this.body = element("tbody");
    this.more = element("button", { onclick: () => this.#load(false) }, "Show more");
    const save = (format) => element("button", {
      onclick: () => this.#guard(() => download(`/v1/history/export?${this.#query({ format })}`, `history.${format}`)),
    }, `Export ${format.toUpperCase()}`);
    this.problem = element("p", { class: "problem", role: "alert", hidden: true });
    this.node.replaceChildren(element("section", { class: "panel" },
      element("div", { class: "panel-head" }, element("h2", {}, "History"), this.counts, element("div", { class: "buttons" }, save("csv"), save("json"))),
      this.form, this.problem,
      element("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": "Judged images" },
        element("table", {},
          element("thead", {}, element("tr", {}, HEAD.map((text) => element("th", { scope: "col" }, text)))),
          this.body)),
      this.more,
      element("p", { class: "muted small" }, "Images judged on this page, with the thresholds stored in the model. “Used for” is filled in by vqlab feedback.")));
  }

  #query(more = {}) {
    const query = new URLSearchParams(more);
    for (const [name, value] of new FormData(this.form)) {
      if (!value) continue;
      const day = name === "since" || name === "until";
      query.set(name, day ? new Date(`${value}T${name === "since" ? "00:00:00" : "23:59:59.999"}`).toISOString() : value);
    }
    return query;
  }

  async #load(anew) {
    await this.#guard(async () => {
      const asked = (this.asked = (this.asked ?? 0) + 1);
      const before = anew || !this.last ? {} : { before: this.last };
      const { total, rows } = await json(`/v1/history?${this.#query({ limit: PAGE, ...before })}`);
      if (asked !== this.asked) return;
      const cells = rows.map((row) => this.#row(row));
      if (anew) this.body.replaceChildren(...cells);
      else this.body.append(...cells);
      this.rows = (anew ? 0 : this.rows) + rows.length;
      this.last = rows.at(-1)?.id ?? this.last;
      this.counts.textContent = `${this.rows} of ${total} ${total === 1 ? "image" : "images"}`;
      this.more.hidden = this.rows >= total;
    });
  }

  #row(row) {
    const time = element("time", { datetime: row.time }, new Date(row.time).toLocaleString(undefined, TIME));
    const person = row.person ? element("span", { class: `mark ${row.person}` }, row.person) : "–";
    const cells = [nameElement(row.name), badge(row.verdict), person, number(row.score),
      element("bdi", {}, row.category), row.version, ROLES[row.role] ?? "–"];
    return element("tr", {}, element("th", { scope: "row" }, time), cells.map((cell) => element("td", {}, cell)));
  }

  async #guard(action) {
    this.problem.hidden = true;
    try {
      await action();
    } catch (error) {
      this.problem.textContent = error.message;
      this.problem.hidden = false;
    }
  }
}
