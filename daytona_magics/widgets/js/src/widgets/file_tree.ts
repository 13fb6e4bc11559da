/**
 * The file tree: lazily fetched folders (`folders.ts`) drawn as a virtual list (`rows.ts`), with keyboard, filter,
 * preview (`look.ts`), transfers (`transfers.ts`) and changes (`changes.ts`).
 */
import { Changes } from "./changes";
import { Crumbs } from "./crumbs";
import { h } from "./dom";
import { type Entry, Folder, PAGE, type Page, type Remarks, type Row } from "./folders";
import css from "./file_tree.css";
import { button, Frame, toggle, toolbar } from "./frame";
import { Look } from "./look";
import { lastCell, marks } from "./marks";
import { type Item, menu } from "./menu";
import { Rows } from "./rows";
import { Transfers } from "./transfers";
import type { View } from "./types";

export class FileTree {
  private readonly frame: Frame;
  private readonly rows: Rows;
  private readonly crumbs = new Crumbs((path) => void this.go(path));
  private readonly filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Filter this folder" });
  private readonly look: Look;
  private readonly transfers: Transfers;
  private readonly changes: Changes;
  private root: Folder;
  private hidden = false;
  private readonly sort = h("select", { "aria-label": "Order of files", title: "Order of files" },
    h("option", { value: "name" }, "By name"),
    h("option", { value: "modified" }, "Latest first"),
    h("option", { value: "size" }, "Largest first"));
  private typed = "";
  private typedAt = 0;
  private soon: ReturnType<typeof setTimeout> | undefined;

  constructor(view: View) {
    const frame = (this.frame = new Frame(view, "dm-files", "Files of the sandbox", css));
    const state = (view.model.get("view") ?? {}) as { path?: string };
    const say = (text: string, error?: boolean) => frame.say(text, error);
    this.root = new Folder(state.path ?? "~");
    this.rows = new Rows(() => this.root, marks, view.signal);
    this.rows.onMissing = ({ folder, index }) => {
      for (const offset of folder.missing(index, index)) void this.load(folder, offset);
    };
    this.rows.empty = () => {
      if (!this.root.loaded) return "";
      return this.root.failed || (this.filter.value ? "No name matches the filter." : "This folder is empty.");
    };
    this.look = new Look(frame.line, say);
    this.transfers = new Transfers(frame.line, say);
    this.changes = new Changes(frame, this.transfers, {
      reload: (folder) => this.reload(folder),
      closeLook: () => this.look.close(),
      focus: () => this.rows.element.focus(),
    });
    frame.onStanding = (now, before) => {
      if (now.state === "started") void this.refresh();
      else if (before.state === "started") say("These are the files as they were last seen.");
    };
    frame.onBack = () => void this.refresh();
    frame.line.onEvent = (event) => {
      if (event.name === "cell") this.cellEnded();
    };
    frame.build(this.toolbar(), this.rows.element, this.look.element);
    this.listen();
    this.crumbs.show(this.root.path, "");
    void this.load(this.root, 0);
  }

  private toolbar(): HTMLElement {
    const files = this.picker();
    const folder = this.picker({ webkitdirectory: true });
    const upload = button("Upload ▾", "Copy files of this computer into the sandbox", () =>
      menu(this.frame.element, upload, [
        { text: "Files …", act: () => files.click() },
        { text: "A folder …", act: () => folder.click() },
      ]));
    upload.setAttribute("aria-haspopup", "menu");
    this.sort.addEventListener("change", () => void this.refresh());
    let timer: ReturnType<typeof setTimeout> | undefined;
    this.filter.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        this.rows.chosen = 0;
        void this.refresh();
      }, 200);
    });
    return toolbar(
      "Files",
      button("↑", "Open the folder above", () => void this.go(this.root.path.replace(/\/[^/]*$/, "") || "/")),
      this.crumbs.element,
      this.filter,
      toggle("Hidden", "Show names that begin with a dot", false, (on) => {
        this.hidden = on;
        void this.refresh();
      }),
      this.sort,
      button("Refresh", "Read the folders again", () => void this.refresh()),
      button("New folder", "Make a folder", () => this.changes.make(this.folderHere())),
      upload,
      files,
      folder,
    );
  }

  /** The browser's own dialog for files to upload. */
  private picker(more: Record<string, boolean> = {}): HTMLInputElement {
    const made = h("input", { type: "file", multiple: true, class: "dm-hidden", tabindex: -1, "aria-hidden": "true", ...more });
    made.addEventListener("change", () => {
      const files = [...(made.files ?? [])].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
      void this.changes.upload(files, this.folderHere());
      made.value = "";
    });
    return made;
  }

  private listen(): void {
    const tree = this.rows.element;
    tree.addEventListener("keydown", (event) => this.key(event));
    tree.addEventListener("click", (event) => this.click(event));
    tree.addEventListener("contextmenu", (event) => {
      const place = this.rows.placeAt(event);
      if (place === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.rows.choose(place);
      this.menu({ x: event.clientX, y: event.clientY });
    });
    tree.addEventListener("dblclick", (event) => void this.enter(this.rows.at(event)));
    tree.addEventListener("dragover", (event) => {
      event.preventDefault();
      tree.dataset.drop = "true";
    });
    tree.addEventListener("dragleave", () => delete tree.dataset.drop);
    tree.addEventListener("drop", (event) => {
      event.preventDefault();
      delete tree.dataset.drop;
      void this.changes.drop(event, this.folderOf(this.rows.at(event)));
    });
  }

  // -- fetching --------------------------------------------------------------------------------------------------

  private async load(folder: Folder, offset: number): Promise<void> {
    const top = folder === this.root;
    const match = top ? this.filter.value : "";
    try {
      const given = { path: folder.path, offset, limit: PAGE, match, hidden: this.hidden, sort: this.sort.value };
      const { value } = await this.frame.line.call("list", given);
      folder.take(value as unknown as Page);
      if (top && offset === 0) this.told();
    } catch (error) {
      folder.loaded = true;
      const { code, message } = this.frame.failed(error);
      // How the sandbox stands is said above already.
      folder.failed = code === "failed" || code === "refused" ? message : "Nothing has been seen of this folder yet.";
    }
    this.rows.draw();
    if (offset === 0 && !folder.failed) await this.remark(folder);
  }

  /** Ask what git says of a folder and what the last cell changed in it; without an answer there are no marks. */
  private async remark(folder: Folder): Promise<void> {
    try {
      const { value } = await this.frame.line.call("marks", { path: folder.path });
      folder.remark(value as unknown as Remarks);
      this.told();
      this.rows.draw();
    } catch {
      folder.git = {};
    }
  }

  /** A cell has ended: read what is open again and mark what is different. Several at once count as one. */
  private cellEnded(): void {
    clearTimeout(this.soon);
    this.soon = setTimeout(async () => {
      const before = this.open().map((folder) => [folder, folder.snapshot()] as const);
      for (const [folder, snapshot] of before) folder.next = snapshot;
      await this.refresh();
    }, 150);
  }

  /** The folders that are open, the top one first. */
  private open(folder = this.root): Folder[] {
    return [folder, ...[...folder.opened.values()].flatMap((one) => this.open(one))];
  }

  private told(): void {
    const { total, hidden, more } = this.root;
    this.crumbs.show(this.root.path, this.root.branch);
    const entries = `${total.toLocaleString()} ${total === 1 ? "entry" : "entries"}${more ? " and more" : ""}`;
    const parts = [entries + (hidden ? `, ${hidden.toLocaleString()} hidden` : ""), lastCell(this.open())];
    this.frame.say(parts.filter((one) => one !== "").join(" · "));
  }

  /** Read all open folders again. */
  private async refresh(): Promise<void> {
    const again = (folder: Folder): Promise<unknown>[] => [
      this.reload(folder),
      ...[...folder.opened.values()].flatMap(again),
    ];
    await Promise.all(again(this.root));
  }

  private async reload(folder: Folder): Promise<void> {
    folder.forget();
    folder.missing(0, 0);
    await this.load(folder, 0);
  }

  private async go(path: string): Promise<void> {
    this.root = new Folder(path);
    this.filter.value = "";
    this.rows.chosen = 0;
    await this.reload(this.root);
  }

  // -- reader's hands --------------------------------------------------------------------------------------------

  private click(event: MouseEvent): void {
    const place = this.rows.placeAt(event);
    if (place === undefined) return;
    this.rows.choose(place);
    const row = this.rows.here;
    const twisted = (event.target as HTMLElement).classList.contains("dm-twist");
    if (row?.entry?.kind === "dir" ? twisted : row?.entry && event.detail === 1) void this.enter(row);
  }

  private key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.length > 1 && event.key !== "Shift") this.typed = "";
    const { rows } = this;
    const row = rows.here;
    const acts: Record<string, () => unknown> = {
      ArrowDown: () => rows.choose(rows.chosen + 1),
      ArrowUp: () => rows.choose(rows.chosen - 1),
      PageDown: () => rows.choose(rows.chosen + rows.page),
      PageUp: () => rows.choose(rows.chosen - rows.page),
      Home: () => rows.choose(0),
      End: () => rows.choose(this.root.count() - 1),
      ArrowRight: () => this.right(row),
      ArrowLeft: () => this.left(row),
      Enter: () => this.enter(row),
      " ": () => this.enter(row),
      "*": () => this.openAll(row),
      F2: () => this.changes.rename(row),
      Delete: () => this.changes.remove(row),
      Escape: () => this.look.close(),
      ContextMenu: () => this.menu(),
    };
    const act = event.key === "F10" && event.shiftKey ? () => this.menu() : acts[event.key];
    if (act) void act();
    else if (event.key.length === 1) this.find(event.key);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  private right(row: Row | undefined): void {
    if (row?.entry?.kind !== "dir") return;
    if (row.folder.opened.has(row.entry.name)) this.rows.choose(this.rows.chosen + 1);
    else void this.enter(row);
  }

  private left(row: Row | undefined): void {
    if (row === undefined) return;
    if (row.entry?.kind === "dir" && row.folder.opened.has(row.entry.name)) void this.enter(row);
    else if (row.folder.parent) {
      const parent = row.folder.parent;
      const name = [...parent.opened].find(([, folder]) => folder === row.folder)?.[0];
      const place = name === undefined ? -1 : this.root.place(parent, parent.indexOf(name));
      if (place >= 0) this.rows.choose(place);
    }
  }

  private find(letter: string): void {
    const now = performance.now();
    this.typed = now - this.typedAt < 800 ? this.typed + letter.toLowerCase() : letter.toLowerCase();
    this.typedAt = now;
    const total = this.root.count();
    const start = this.typed.length === 1 ? 1 : 0;
    for (let step = start; step < Math.min(total, 5000) + start; step += 1) {
      const place = (this.rows.chosen + step) % total;
      if (this.root.row(place)?.entry?.name.toLowerCase().startsWith(this.typed)) {
        this.rows.choose(place);
        return;
      }
    }
  }

  /** Open or close a folder; show a file. */
  private async enter(row: Row | undefined): Promise<void> {
    const entry = row?.entry;
    if (row === undefined || entry === undefined) return;
    if (!entry.whole) {
      this.frame.say("This name is not valid UTF-8; a bash cell can reach it.", true);
    } else if (entry.kind === "dir") {
      if (row.folder.opened.delete(entry.name)) {
        this.rows.draw();
        return;
      }
      const folder = new Folder(row.folder.pathOf(entry.name), row.folder);
      row.folder.opened.set(entry.name, folder);
      await this.reload(folder);
    } else if (entry.kind === "file" || entry.kind === "link") {
      this.show(row.folder, entry);
    }
  }

  private async openAll(row: Row | undefined): Promise<void> {
    if (row === undefined) return;
    const folded = [...Array(Math.min(row.folder.total, 50)).keys()]
      .map((index) => ({ ...row, index, entry: row.folder.at(index) }))
      .filter(({ entry }) => entry?.kind === "dir" && !row.folder.opened.has(entry.name));
    await Promise.all(folded.map((one) => this.enter(one)));
  }

  private show(folder: Folder, entry: Entry): void {
    const row: Row = { folder, index: folder.indexOf(entry.name), depth: 0, entry };
    const actions = this.actions(row).filter((one) => one.text !== "Open");
    void this.look.open(folder.pathOf(entry.name), entry, actions.map(({ text, act }) => [text, act]));
  }

  /** What can be done to a row's entry. */
  private actions(row: Row): Item[] {
    const { folder, entry } = row;
    if (entry === undefined || !entry.whole) return [];
    const path = folder.pathOf(entry.name);
    const open = entry.kind === "dir" ? [{ text: "Open as the top", act: () => void this.go(path) }] : [];
    const files = [
      { text: "Open", act: () => void this.enter(row) },
      { text: "Download", act: () => void this.transfers.download(path, entry.name) },
    ];
    return [
      ...(entry.kind === "dir" ? open : files),
      { text: "Copy path", act: () => void this.copy(path) },
      { text: "Rename", act: () => this.changes.rename(row) },
      { text: "Delete", danger: true, act: () => this.changes.remove(row) },
    ];
  }

  private menu(at?: { x: number; y: number }): void {
    const items = this.rows.here ? this.actions(this.rows.here) : [];
    const anchor = this.rows.elementHere();
    if (items.length > 0 && anchor) menu(this.frame.element, anchor, items, at);
  }

  /** Put a text on the reader's clipboard; a page without the right to shows it instead. */
  private async copy(path: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(path);
      this.frame.say(`Copied ${path}`);
    } catch {
      this.frame.say(path);
    }
  }

  /** The folder of a row: itself, when it is an open one, or the one it is in. */
  private folderOf(row: Row | undefined): Folder {
    const opened = row?.entry ? row.folder.opened.get(row.entry.name) : undefined;
    return opened ?? row?.folder ?? this.root;
  }

  /** Where new things go. */
  private folderHere(): Folder {
    return this.folderOf(this.rows.here);
  }
}
