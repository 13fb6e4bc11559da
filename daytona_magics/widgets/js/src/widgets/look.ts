/** The beginning of a file: text as text, a picture as a picture, anything else by its size. */
import { h, size, visible } from "./dom";
import type { Entry } from "./folders";
import { CallFailed, type Line } from "./line";

interface Seen {
  kind: "text" | "picture" | "binary";
  text?: string;
  type?: string;
  size: number;
  cut?: boolean;
}

export class Look {
  readonly element = h("div", { class: "dm-look", hidden: true });
  private url = "";
  private turn = 0;

  constructor(
    private readonly line: Line,
    private readonly say: (text: string, error?: boolean) => void,
  ) {}

  close(): void {
    this.turn += 1;
    this.element.hidden = true;
    this.element.replaceChildren();
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = "";
  }

  /** Show a file, with what can be done to it. */
  async open(path: string, entry: Entry, actions: [string, () => void][]): Promise<void> {
    this.close();
    const turn = this.turn;
    const body = h("div", {}, h("div", { class: "dm-empty" }, "…"));
    this.element.replaceChildren(
      h("div", { class: "dm-bar", role: "toolbar", "aria-label": visible(entry.name) },
        h("strong", { class: "dm-path" }, visible(entry.name)),
        ...actions.map(([text, act]) => h("button", { onclick: act }, text)),
        h("button", { title: "Close the preview", onclick: () => this.close() }, "Close"),
      ),
      body,
    );
    this.element.hidden = false;
    try {
      const { value, buffers } = await this.line.call("look", { path });
      if (turn === this.turn) body.replaceChildren(...this.shown(value as unknown as Seen, buffers, entry));
    } catch (error) {
      if (turn !== this.turn) return;
      this.close();
      this.say(error instanceof CallFailed ? error.message : String(error), true);
    }
  }

  private shown(seen: Seen, buffers: DataView[], entry: Entry): Node[] {
    if (seen.kind === "picture" && buffers[0]) {
      const data = buffers[0];
      const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
      this.url = URL.createObjectURL(new Blob([bytes], { type: seen.type ?? "" }));
      return [h("img", { src: this.url, alt: visible(entry.name) })];
    }
    if (seen.kind === "text") {
      const text = entry.name.endsWith(".ipynb") ? notebook(seen.text ?? "") : (seen.text ?? "");
      const pre = h("pre", { tabindex: 0, "data-lm-suppress-shortcuts": "true", "aria-label": "Content" });
      pre.textContent = text;
      return seen.cut ? [pre, h("div", { class: "dm-status" }, `The beginning of ${size(seen.size)}.`)] : [pre];
    }
    return [h("div", { class: "dm-empty" }, `${size(seen.size)} that are neither text nor a picture.`)];
  }
}

/** The cells of a notebook as text; what is no notebook as it is. */
function notebook(text: string): string {
  try {
    const cells = (JSON.parse(text) as { cells: { cell_type: string; source: string | string[] }[] }).cells;
    const source = (one: string | string[]) => (Array.isArray(one) ? one.join("") : String(one));
    return cells.map((cell, at) => `── ${at + 1} · ${cell.cell_type} ──\n${source(cell.source)}`).join("\n\n");
  } catch {
    return text;
  }
}
