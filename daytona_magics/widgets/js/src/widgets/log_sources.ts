/** The sources of a log: which there are, how each is, which are shown, and what else could be followed. */
import { h, visible } from "./dom";
import { button, type Frame } from "./frame";
import { type Item, menu } from "./menu";

export interface SourceState {
  name: string;
  state: "live" | "waiting" | "ended" | "lost" | "removed";
  said: string;
}

const MOST = 40;

export class LogSources {
  readonly element = h("div", { class: "dm-bar dm-sources", role: "group", "aria-label": "Sources" });
  private readonly chips = new Map<number, HTMLButtonElement>();
  private readonly off = new Set<number>();
  private readonly add: HTMLButtonElement;
  private known: SourceState[] = [];
  private told = "";

  constructor(
    private readonly frame: Frame,
    private readonly changed: () => void,
  ) {
    this.add = button("Add …", "Follow another log in this view", () => void this.choose());
    this.add.setAttribute("aria-haspopup", "menu");
    this.element.append(this.add);
  }

  /** Numbers of those that are not shown. */
  get hidden(): number[] {
    return [...this.off];
  }

  /** The name of a source where there are several. */
  nameOf(source: number): string {
    return this.known.length > 1 ? visible(this.known[source]?.name ?? "") : "";
  }

  /** How they are now; whether rows look different from now on. */
  take(sources: SourceState[]): boolean {
    const told = JSON.stringify(sources);
    if (told === this.told) return false;
    this.told = told;
    const before = this.known.length;
    this.known = sources;
    sources.forEach((source, number) => this.chip(source, number));
    return before !== sources.length && sources.length > 1;
  }

  private chip(source: SourceState, number: number): void {
    let chip = this.chips.get(number);
    if (chip === undefined) {
      chip = button("", "", () => this.turn(number));
      chip.className = "dm-chip";
      this.chips.set(number, chip);
      this.element.insertBefore(chip, this.add);
    }
    const name = visible(source.name);
    const said = visible(source.said || (source.state === "live" ? "following" : source.state));
    chip.setAttribute("aria-pressed", String(!this.off.has(number)));
    chip.title = `${name}: ${said}. Press to hide or show its lines.`;
    chip.dataset.state = source.state;
    chip.replaceChildren(
      h("span", { class: `dm-dot dm-colour-${number % 8}`, "aria-hidden": "true" }),
      h("span", { class: "dm-chip-name" }, name),
      // The banner says why.
      h("span", { class: "dm-state" }, source.state === "lost" ? "not followed" : said),
    );
  }

  private turn(number: number): void {
    if (!this.off.delete(number)) this.off.add(number);
    this.chips.get(number)?.setAttribute("aria-pressed", String(!this.off.has(number)));
    this.changed();
  }

  private async choose(): Promise<void> {
    await this.frame.act(async () => {
      const { value } = await this.frame.line.call("list");
      const found = value["sources"] as [string, string][];
      const items: Item[] = [{ text: "A file …", act: () => this.file() }];
      for (const [key, name] of found.slice(0, MOST)) items.push({ text: name, act: () => void this.follow(key) });
      menu(this.frame.element, this.add, items);
    });
  }

  private file(): void {
    this.frame.ask.text("Path of the file", "~/", "Follow", (path) => {
      if (path.trim()) void this.follow(path.trim());
    });
  }

  private async follow(key: string): Promise<void> {
    await this.frame.act(() => this.frame.line.call("add", { key }));
  }
}
