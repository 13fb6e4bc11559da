/** All sandboxes of the endpoint, a page at a time, with filter and what can be done to each. */
import { h, visible } from "./dom";
import { act, ago, type Cell, hidden, state, swap, table } from "./panel_draw";
import type { Hands, Others, Row } from "./panel_types";

const PAGE = 20;
const VERBS: Record<string, string> = { start: "Start", stop: "Stop", delete: "Delete", recover: "Recover" };

export class AllSandboxes {
  readonly element = h("div", {});
  private readonly filter = h("input", { type: "search", placeholder: "Filter by name, state, label or owner", "aria-label": "Filter sandboxes" });
  private readonly mine = h("input", { type: "checkbox", checked: true });
  private readonly reap = h("span", { class: "dm-acts" });
  private readonly list = h("div", {});
  private readonly said = h("span", { role: "status", "aria-live": "polite" });
  private readonly pages = h("div", { class: "dm-pages" });
  private rows: Row[] = [];
  private loaded = false;
  private page = 0;

  constructor(private readonly hands: Hands) {
    const again = () => {
      this.page = 0;
      this.draw();
    };
    this.filter.addEventListener("input", again);
    this.mine.addEventListener("change", again);
    this.element.append(
      h("div", { class: "dm-acts dm-filter" }, this.filter, h("label", {}, this.mine, " made on this machine only"), this.reap),
      this.list,
      this.pages,
    );
  }

  /** What the heading says. */
  get count(): string {
    const orphans = this.rows.filter((one) => one.orphan).length;
    return this.loaded ? ` (${this.rows.length})${orphans ? ` · ${orphans} orphaned` : ""}` : "";
  }

  take(others: Others): void {
    this.rows = others.rows ?? [];
    this.loaded = others.loaded === true;
    this.draw();
  }

  private matching(): Row[] {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    return this.rows.filter((row) => {
      if (this.mine.checked && (row.owner === "another program" || row.owner === "another machine") && !row.bound) return false;
      const text = [row.name, row.id, row.state, row.owner, row.orphan ? "orphan" : "", ...row.labels.map((pair) => pair.join("="))].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }

  private draw(): void {
    const rows = this.matching();
    const count = Math.max(1, Math.ceil(rows.length / PAGE));
    this.page = Math.max(0, Math.min(this.page, count - 1));
    const shown = rows.slice(this.page * PAGE, (this.page + 1) * PAGE);
    if (!this.loaded) swap(this.list, h("div", { class: "dm-empty dm-small" }, "Asking …"));
    else if (shown.length === 0) {
      swap(this.list, h("div", { class: "dm-empty dm-small" }, this.rows.length ? "No sandbox matches." : "There are no sandboxes."));
    } else swap(this.list, table("All sandboxes", ["sandbox", "state", "whose", "created", ""], shown.map((row) => this.row(row))));
    this.drawPages(rows.length, count);
    this.drawReap();
  }

  private row(row: Row): Cell[] {
    const name = h("span", {}, h("span", { class: "dm-boxname", title: visible(row.id) }, visible(row.name)));
    if (row.bound) name.append(h("span", { class: "dm-badge" }, "this notebook"));
    if (row.orphan) name.append(h("span", { class: "dm-badge", "data-kind": "warn" }, "orphan"));
    for (const [key, value] of row.labels) name.append(h("span", { class: "dm-badge dm-label" }, visible(`${key}=${value}`)));
    const acts = h("span", { class: "dm-acts" }, ...row.can.map((what) =>
      act(`${what}-${row.id}`, VERBS[what] ?? what, `${VERBS[what] ?? what} ${row.name}`, () => this.hands.change(what, row), what === "delete" ? "dm-danger" : ""),
    ));
    if (!row.bound) acts.append(act(`use-${row.id}`, "Use", `Use ${row.name} in this notebook`, () => this.bind(row)));
    return [name, state(row.state), row.owner, ago(row.created), acts];
  }

  private bind(row: Row): void {
    const go = () => this.hands.call("bind", { id: row.id, sure: row.name });
    if (row.foreign) this.hands.typed(`${visible(row.name)} ${row.foreign}. To use it here all the same, type its name`, row.name, "Use", go);
    else this.hands.confirm(`Run this notebook's cells in ${visible(row.name)} from now on?`, "Use it", go);
  }

  private drawPages(total: number, count: number): void {
    const to = (page: number) => () => {
      this.page = page;
      this.draw();
    };
    const before = act("page-before", "‹", "Page before", to(this.page - 1));
    const after = act("page-after", "›", "Next page", to(this.page + 1));
    before.disabled = this.page === 0;
    after.disabled = this.page >= count - 1;
    const text = count > 1 ? `Page ${this.page + 1} of ${count}, ${total} sandboxes` : "";
    if (this.said.textContent !== text) this.said.textContent = text;
    swap(this.pages, ...(count > 1 ? [before, this.said, after] : [hidden(""), this.said]));
  }

  private drawReap(): void {
    const orphans = this.rows.filter((one) => one.orphan);
    const running = orphans.filter((one) => one.can.includes("stop")).length;
    const parts: Node[] = [];
    if (running) {
      parts.push(act("reap-stop", `Stop ${running} of dead kernels`, "", () => this.hands.confirm(
        `Stop ${running} ${running === 1 ? "sandbox" : "sandboxes"} of dead kernels of this machine? Files are kept.`, "Stop them",
        () => this.hands.call("reap", { delete: false }))));
    }
    if (orphans.length) {
      parts.push(act("reap-delete", `Delete ${orphans.length} of dead kernels`, "", () => this.hands.confirm(
        `Delete ${orphans.length} ${orphans.length === 1 ? "sandbox" : "sandboxes"} of dead kernels of this machine, with all files?`, "Delete them",
        () => this.hands.call("reap", { delete: true })), "dm-danger"));
    }
    swap(this.reap, ...parts);
  }
}
