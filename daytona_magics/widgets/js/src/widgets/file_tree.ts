/**
 * The file tree: a virtual list of rows over lazily fetched folders, with keyboard, filter, preview and changes.
 *
 * The focus stays on the tree itself and `aria-activedescendant` names the row, so rows may come and go under the
 * reader's cursor. The element carries `data-lm-suppress-shortcuts`: else a key pressed here edits the notebook.
 */
import { Ask } from "./ask";
import { h, size, style, visible } from "./dom";
import { type Entry, Folder, PAGE, type Page, type Row } from "./folders";
import css from "./file_tree.css";
import { CallFailed, Line } from "./line";
import { Look } from "./look";
import { Transfers } from "./transfers";
import type { View } from "./types";

const ROW = 24;
const SPARE = 8;
let trees = 0;

export class FileTree {
  private readonly id = `dm-tree-${++trees}`;
  private readonly line: Line;
  private readonly path = h("span", { class: "dm-path", title: "" });
  private readonly filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter this folder" });
  private readonly hidden = h("button", { "aria-pressed": "false", title: "Show names that begin with a dot" }, "Hidden");
  private readonly tree: HTMLElement;
  private readonly space = h("div", { role: "presentation" });
  private readonly status = h("div", { class: "dm-status", role: "status", "aria-live": "polite" });
  private readonly ask = new Ask();
  private readonly look: Look;
  private readonly transfers: Transfers;
  private root: Folder;
  private chosen = 0;
  private typed = "";
  private typedAt = 0;
  private drawing = false;

  constructor(view: View) {
    const { model, control, el, signal } = view;
    style("dm-style-tree", css, el);
    this.line = new Line(model, control, signal);
    this.line.onBusy = (busy) => {
      this.tree.setAttribute("aria-busy", String(busy));
      this.say(busy ? "The kernel is busy with a cell; this is answered when it ends. ■ interrupts it." : "");
    };
    const state = (model.get("view") ?? {}) as { path?: string };
    this.root = new Folder(state.path ?? "~");
    this.tree = h("div", {
      class: "dm-tree",
      role: "tree",
      tabindex: 0,
      "aria-label": "Files of the sandbox",
      "data-lm-suppress-shortcuts": "true",
    }, this.space);
    this.look = new Look(this.line, (text, error) => this.say(text, error));
    this.transfers = new Transfers(this.line, (text, error) => this.say(text, error));
    el.append(
      h("div", { class: "dm-widget dm-files" }, this.toolbar(), this.ask.element, this.tree, this.look.element, this.status),
    );
    this.listen(signal);
    this.line.hello();
    void this.load(this.root, 0);
  }

  private toolbar(): HTMLElement {
    const button = (text: string, title: string, act: () => void) =>
      h("button", { title, onclick: act }, text);
    const picker = h("input", { type: "file", multiple: true, class: "dm-hidden", tabindex: -1, "aria-hidden": "true" });
    picker.addEventListener("change", () => {
      void this.upload([...(picker.files ?? [])].map((file) => ({ file, path: file.name })), this.folderHere());
      picker.value = "";
    });
    this.hidden.addEventListener("click", () => {
      const on = this.hidden.getAttribute("aria-pressed") !== "true";
      this.hidden.setAttribute("aria-pressed", String(on));
      void this.refresh();
    });
    let timer: ReturnType<typeof setTimeout> | undefined;
    this.filter.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => void this.refresh(true), 200);
    });
    return h("div", { class: "dm-bar", role: "toolbar", "aria-label": "Files" },
      button("↑", "Open the folder above", () => void this.above()),
      this.path,
      this.filter,
      this.hidden,
      button("Refresh", "Read the folders again", () => void this.refresh()),
      button("New folder", "Make a folder", () => this.make()),
      button("Upload", "Copy files of this computer into the sandbox", () => picker.click()),
      picker,
    );
  }

  private listen(signal: AbortSignal): void {
    const tree = this.tree;
    tree.addEventListener("scroll", () => this.draw());
    tree.addEventListener("keydown", (event) => this.key(event));
    tree.addEventListener("click", (event) => this.click(event));
    tree.addEventListener("dblclick", (event) => void this.open(this.rowAt(event)));
    tree.addEventListener("dragover", (event) => {
      event.preventDefault();
      tree.dataset.drop = "true";
    });
    tree.addEventListener("dragleave", () => delete tree.dataset.drop);
    tree.addEventListener("drop", (event) => void this.drop(event));
    const resized = new ResizeObserver(() => this.draw());
    resized.observe(tree);
    signal.addEventListener("abort", () => resized.disconnect());
  }

  // -- fetching --------------------------------------------------------------------------------------------------

  private async load(folder: Folder, offset: number): Promise<void> {
    const top = folder === this.root;
    try {
      const { value } = await this.line.call("list", {
        path: folder.path,
        offset,
        limit: PAGE,
        match: top ? this.filter.value : "",
        hidden: this.hidden.getAttribute("aria-pressed") === "true",
      });
      folder.take(value as unknown as Page);
      if (top && offset === 0) this.told();
    } catch (error) {
      folder.loaded = true;
      this.failed(error, folder);
    }
    this.draw();
  }

  private told(): void {
    const { total, hidden, more } = this.root;
    this.path.textContent = visible(this.root.path);
    this.path.title = visible(this.root.path);
    const entries = `${total.toLocaleString()} ${total === 1 ? "entry" : "entries"}${more ? " and more" : ""}`;
    this.say(entries + (hidden ? `, ${hidden.toLocaleString()} hidden` : ""));
  }

  /** Read all open folders again. */
  private async refresh(top = false): Promise<void> {
    if (top) this.chosen = 0;
    const again = (folder: Folder): Promise<unknown>[] => {
      folder.forget();
      folder.missing(0, 0);
      return [this.load(folder, 0), ...[...folder.opened.values()].flatMap(again)];
    };
    await Promise.all(again(this.root));
  }

  private async reload(folder: Folder): Promise<void> {
    folder.forget();
    folder.missing(0, 0);
    await this.load(folder, 0);
  }

  private async above(): Promise<void> {
    const path = this.root.path.replace(/\/[^/]*$/, "") || "/";
    this.root = new Folder(path);
    this.filter.value = "";
    this.chosen = 0;
    this.root.missing(0, 0);
    await this.load(this.root, 0);
  }

  private failed(error: unknown, folder?: Folder): void {
    const failure = error instanceof CallFailed ? error : new CallFailed("failed", String(error), "");
    if (folder) folder.failed = failure.message;
    this.say(`${failure.message}${failure.hint ? ` (${failure.hint})` : ""}`, true);
    if (failure.code === "none" || failure.code === "stopped") {
      const what = failure.code === "none" ? "Create a sandbox" : "Start it";
      this.ask.offer(failure.message, what, async () => {
        this.say("Starting the sandbox …");
        await this.act(() => this.line.call("start"));
        await this.refresh();
      });
    }
  }

  private async act(call: () => Promise<unknown>): Promise<boolean> {
    try {
      await call();
      return true;
    } catch (error) {
      this.failed(error);
      return false;
    }
  }

  private say(text: string, error = false): void {
    this.status.textContent = visible(text);
    this.status.dataset.kind = error ? "error" : "";
  }

  // -- drawing ---------------------------------------------------------------------------------------------------

  private draw(): void {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => {
      this.drawing = false;
      this.paint();
    });
  }

  private paint(): void {
    const total = this.root.count();
    this.chosen = Math.max(0, Math.min(this.chosen, total - 1));
    this.space.style.height = `${total * ROW}px`;
    const first = Math.max(0, Math.floor(this.tree.scrollTop / ROW) - SPARE);
    const last = Math.min(total, Math.ceil((this.tree.scrollTop + this.tree.clientHeight) / ROW) + SPARE);
    const rows: HTMLElement[] = [];
    for (let place = first; place < last; place += 1) {
      const row = this.root.row(place);
      if (row === undefined) break;
      if (row.entry === undefined) this.fetch(row);
      rows.push(this.rowElement(row, place));
    }
    if (total === 0 && this.root.loaded) {
      const empty = this.filter.value ? "No name matches the filter." : "This folder is empty.";
      rows.push(h("div", { class: "dm-empty" }, this.root.failed ? visible(this.root.failed) : empty));
    }
    this.space.replaceChildren(...rows);
    if (total > 0) this.tree.setAttribute("aria-activedescendant", `${this.id}-${this.chosen}`);
    else this.tree.removeAttribute("aria-activedescendant");
  }

  private fetch(row: Row): void {
    for (const offset of row.folder.missing(row.index, row.index)) void this.load(row.folder, offset);
  }

  private rowElement(row: Row, place: number): HTMLElement {
    const { entry, folder, index, depth } = row;
    const folded = entry?.kind === "dir" ? !folder.opened.has(entry.name) : undefined;
    const name = entry === undefined ? "…" : visible(entry.name);
    const element = h("div", {
      class: "dm-row",
      role: "treeitem",
      id: `${this.id}-${place}`,
      "aria-level": depth,
      "aria-setsize": folder.total,
      "aria-posinset": index + 1,
      "aria-selected": String(place === this.chosen),
      "data-kind": entry?.kind ?? "",
      "data-place": place,
      title: entry ? `${visible(folder.pathOf(entry.name))}\n${entry.mode}` : "",
    });
    if (folded !== undefined) element.setAttribute("aria-expanded", String(!folded));
    element.style.top = `${place * ROW}px`;
    element.style.paddingLeft = `${6 + (depth - 1) * 16}px`;
    const label = h("span", { class: "dm-name" }, name + (entry?.kind === "dir" ? "/" : ""));
    if (entry?.target) label.append(h("span", { class: "dm-target" }, ` → ${visible(entry.target)}`));
    element.append(
      h("span", { class: "dm-twist", "aria-hidden": "true" }, folded === undefined ? "" : folded ? "▸" : "▾"),
      label,
      h("span", { class: "dm-size" }, entry?.kind === "file" ? size(entry.size) : ""),
      h("span", { class: "dm-time" }, entry && entry.kind !== "gone" ? when(entry.modified) : ""),
    );
    return element;
  }

  // -- reader's hands --------------------------------------------------------------------------------------------

  private rowAt(event: MouseEvent): Row | undefined {
    const element = (event.target as HTMLElement).closest<HTMLElement>(".dm-row");
    return element ? this.root.row(Number(element.dataset.place)) : undefined;
  }

  private click(event: MouseEvent): void {
    const element = (event.target as HTMLElement).closest<HTMLElement>(".dm-row");
    if (element === null) return;
    this.choose(Number(element.dataset.place));
    const row = this.root.row(this.chosen);
    const twisted = (event.target as HTMLElement).classList.contains("dm-twist");
    if (row?.entry?.kind === "dir" ? twisted : row?.entry && event.detail === 1) void this.open(row);
  }

  private choose(place: number): void {
    this.chosen = Math.max(0, Math.min(place, this.root.count() - 1));
    const top = this.chosen * ROW;
    if (top < this.tree.scrollTop) this.tree.scrollTop = top;
    else if (top + ROW > this.tree.scrollTop + this.tree.clientHeight) {
      this.tree.scrollTop = top + ROW - this.tree.clientHeight;
    }
    this.paint();
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.length > 1 && event.key !== "Shift") this.typed = "";
    const row = this.root.row(this.chosen);
    const pages = Math.max(1, Math.floor(this.tree.clientHeight / ROW) - 1);
    const steps: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: pages, PageUp: -pages };
    const step = steps[event.key];
    if (step !== undefined) this.choose(this.chosen + step);
    else if (event.key === "Home") this.choose(0);
    else if (event.key === "End") this.choose(this.root.count() - 1);
    else if (event.key === "ArrowRight") this.right(row);
    else if (event.key === "ArrowLeft") this.left(row);
    else if (event.key === "Enter" || event.key === " ") void this.open(row);
    else if (event.key === "*") void this.openAll(row);
    else if (event.key === "F2") this.rename(row);
    else if (event.key === "Delete") this.remove(row);
    else if (event.key === "Escape") this.look.close();
    else if (event.key.length === 1) this.find(event.key);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  private right(row: Row | undefined): void {
    if (row?.entry?.kind !== "dir") return;
    if (row.folder.opened.has(row.entry.name)) this.choose(this.chosen + 1);
    else void this.open(row);
  }

  private left(row: Row | undefined): void {
    if (row === undefined) return;
    if (row.entry?.kind === "dir" && row.folder.opened.has(row.entry.name)) void this.open(row);
    else if (row.folder.parent) {
      const parent = row.folder.parent;
      const name = [...parent.opened].find(([, folder]) => folder === row.folder)?.[0];
      const place = name === undefined ? -1 : this.root.place(parent, parent.indexOf(name));
      if (place >= 0) this.choose(place);
    }
  }

  private find(letter: string): void {
    const now = performance.now();
    this.typed = now - this.typedAt < 800 ? this.typed + letter.toLowerCase() : letter.toLowerCase();
    this.typedAt = now;
    const total = this.root.count();
    const start = this.typed.length === 1 ? 1 : 0;
    for (let step = start; step < Math.min(total, 5000) + start; step += 1) {
      const place = (this.chosen + step) % total;
      if (this.root.row(place)?.entry?.name.toLowerCase().startsWith(this.typed)) {
        this.choose(place);
        return;
      }
    }
  }

  /** Open or close a folder; show a file. */
  private async open(row: Row | undefined): Promise<void> {
    const entry = row?.entry;
    if (row === undefined || entry === undefined) return;
    if (!entry.whole) {
      this.say("This name is not valid UTF-8; a bash cell can reach it.", true);
    } else if (entry.kind === "dir") {
      if (row.folder.opened.delete(entry.name)) {
        this.draw();
        return;
      }
      const folder = new Folder(row.folder.pathOf(entry.name), row.folder);
      row.folder.opened.set(entry.name, folder);
      folder.missing(0, 0);
      await this.load(folder, 0);
    } else if (entry.kind === "file" || entry.kind === "link") {
      this.show(row.folder, entry);
    }
  }

  private async openAll(row: Row | undefined): Promise<void> {
    if (row === undefined) return;
    const folded = [...Array(Math.min(row.folder.total, 50)).keys()]
      .map((index) => ({ ...row, index, entry: row.folder.at(index) }))
      .filter(({ entry }) => entry?.kind === "dir" && !row.folder.opened.has(entry.name));
    await Promise.all(folded.map((one) => this.open(one)));
  }

  private show(folder: Folder, entry: Entry): void {
    const path = folder.pathOf(entry.name);
    const row: Row = { folder, index: folder.indexOf(entry.name), depth: 0, entry };
    void this.look.open(path, entry, [
      ["Download", () => void this.transfers.download(path, entry.name)],
      ["Copy path", () => void navigator.clipboard?.writeText(path).then(() => this.say(`Copied ${path}`))],
      ["Rename", () => this.rename(row)],
      ["Delete", () => this.remove(row)],
    ]);
  }

  // -- changes ---------------------------------------------------------------------------------------------------

  /** Where new things go: the chosen folder, when it is open, or the one that holds what is chosen. */
  private folderHere(): Folder {
    const row = this.root.row(this.chosen);
    const opened = row?.entry ? row.folder.opened.get(row.entry.name) : undefined;
    return opened ?? row?.folder ?? this.root;
  }

  private make(): void {
    const folder = this.folderHere();
    this.ask.text(`New folder in ${visible(folder.path)}`, "", "Make", async (name) => {
      if (!this.fits(name)) return;
      if (await this.act(() => this.line.call("make", { path: folder.pathOf(name) }))) await this.reload(folder);
      this.tree.focus();
    });
  }

  private rename(row: Row | undefined): void {
    const entry = row?.entry;
    if (row === undefined || entry === undefined || !entry.whole) return;
    this.ask.text(`Rename ${visible(entry.name)} to`, entry.name, "Rename", async (name) => {
      if (!this.fits(name) || name === entry.name) return;
      const given = { path: row.folder.pathOf(entry.name), to: row.folder.pathOf(name) };
      if (await this.act(() => this.line.call("rename", given))) {
        this.look.close();
        await this.reload(row.folder);
      }
      this.tree.focus();
    });
  }

  private remove(row: Row | undefined): void {
    const entry = row?.entry;
    if (row === undefined || entry === undefined || !entry.whole) return;
    const folder = entry.kind === "dir" && entry.target === "";
    const what = folder ? `${visible(entry.name)}/ and everything in it` : visible(entry.name);
    this.ask.confirm(`Delete ${what}?`, "Delete", async () => {
      const given = { path: row.folder.pathOf(entry.name), folder };
      if (await this.act(() => this.line.call("remove", given))) {
        this.look.close();
        row.folder.opened.delete(entry.name);
        await this.reload(row.folder);
      }
      this.tree.focus();
    });
  }

  private fits(name: string): boolean {
    if (name !== "" && name !== "." && name !== ".." && !name.includes("/")) return true;
    this.say("A name is needed, without a slash.", true);
    return false;
  }

  private async drop(event: DragEvent): Promise<void> {
    event.preventDefault();
    delete this.tree.dataset.drop;
    const row = this.rowAt(event);
    const opened = row?.entry ? row.folder.opened.get(row.entry.name) : undefined;
    const files = await this.transfers.dropped(event.dataTransfer);
    await this.upload(files, opened ?? row?.folder ?? this.root);
  }

  private async upload(files: { file: File; path: string }[], folder: Folder): Promise<void> {
    const there = files.filter(({ path }) => folder.indexOf(path.split("/")[0] ?? "") >= 0).map(({ path }) => path);
    const send = async () => {
      const [told, failed] = await this.transfers.upload(files, (path) => folder.pathOf(path));
      await this.reload(folder);
      this.say(told, failed);
    };
    if (there.length === 0) await send();
    else this.ask.confirm(`Overwrite ${there.slice(0, 3).map(visible).join(", ")}${there.length > 3 ? " …" : ""}?`, "Overwrite", send);
  }
}

/** A time as the reader's clock shows it. */
function when(seconds: number): string {
  const utc = new Date(seconds * 1000);
  const here = new Date(utc.valueOf() - utc.getTimezoneOffset() * 60_000);
  return Number.isNaN(here.valueOf()) ? "" : here.toISOString().slice(0, 16).replace("T", " ");
}
