/** Taking a log away: as a file, whole and piece by piece; or as text on the clipboard. */
import { h, size, visible } from "./dom";
import type { Frame } from "./frame";
import { menu } from "./menu";
import type { Row } from "./log_rows";
import type { SourceState } from "./log_sources";

/** Lines that are copied at most. */
const MOST = 10_000;

export class Save {
  private count = 0;

  constructor(
    private readonly frame: Frame,
    private readonly rows: (from: number, count: number) => Promise<Row[]>,
  ) {}

  /** Save the log; of several sources, ask which. */
  choose(event: MouseEvent, sources: SourceState[]): void {
    if (sources.length < 2) {
      void this.download(null, sources[0]?.name ?? "log");
      return;
    }
    menu(this.frame.element, event.currentTarget as HTMLElement, [
      { text: "All, as they are shown here", act: () => void this.download(null, "log") },
      ...sources.map((source, number) => ({ text: source.name, act: () => void this.download(number, source.name) })),
    ]);
  }

  private async download(source: number | null, name: string): Promise<void> {
    const { line } = this.frame;
    const id = `${Date.now().toString(36)}-${++this.count}`;
    const parts: ArrayBuffer[] = [];
    let got = 0;
    const done = await this.frame.act(async () => {
      await line.call("download", { id, source });
      for (;;) {
        const { value, buffers } = await line.call("piece", { id });
        const data = buffers[0];
        if (value["last"] === true || data === undefined) break;
        parts.push(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength) as ArrayBuffer);
        got += data.byteLength;
        this.frame.say(`Downloading: ${size(got)}`);
      }
    });
    if (!done) return;
    const url = URL.createObjectURL(new Blob(parts, { type: "text/plain" }));
    h("a", { href: url, download: `${fileName(name)}.log` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    this.frame.say(`Downloaded ${size(got)}.`);
  }

  /** Copy what is marked in the list; else the lines that are shown, the last 10,000 of them. */
  async copy(box: HTMLElement, first: number, end: number): Promise<void> {
    const selection = document.getSelection();
    if (selection !== null && !selection.isCollapsed && selection.anchorNode && box.contains(selection.anchorNode)) {
      await this.put(selection.toString(), "Copied what is marked.");
      return;
    }
    await this.frame.act(async () => {
      const from = Math.max(first, end - MOST);
      const lines: string[] = [];
      let count = 0;
      for (let at = from; at < end; ) {
        const rows = await this.rows(at, 400);
        if (rows.length === 0) break;
        for (const one of rows) lines.push(one.goesOn ? one.text : `${one.text}\n`);
        count += rows.length;
        at = rows.at(-1)!.place + 1;
      }
      const all = end - first > count ? ` of ${(end - first).toLocaleString()}; Download saves all` : "";
      await this.put(lines.join(""), `Copied ${count.toLocaleString()} lines${all}.`);
    });
  }

  private async put(text: string, said: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without TLS, or where the page may not: the older way.
      const area = h("textarea", { class: "dm-hidden", "aria-hidden": "true", tabindex: -1 });
      const back = document.activeElement as HTMLElement | null;
      area.value = text;
      this.frame.element.append(area);
      area.select();
      const copied = document.execCommand("copy");
      area.remove();
      back?.focus({ preventScroll: true });
      if (!copied) {
        this.frame.say("This page may not use the clipboard; Download saves the log.", true);
        return;
      }
    }
    this.frame.say(said);
  }
}

function fileName(name: string): string {
  return visible(name).replace(/[^\p{L}\p{N}._-]+/gu, "-").replace(/^[-.]+|-+$/g, "").slice(0, 80) || "log";
}
