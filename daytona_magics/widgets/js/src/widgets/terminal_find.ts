/**
 * Finding text in what a terminal has printed, its scrollback included.
 *
 * The bar takes the keys while it has the focus, and marks what it finds until it is closed. It looks upwards, from
 * the newest line on: what is looked for in a terminal was mostly printed a moment ago.
 */
import type { ISearchOptions } from "@xterm/addon-search";
import { h } from "./dom";
import { button, toggle } from "./frame";
import { light } from "./terminal_light";
import type { Screen } from "./terminal_screen";

const ON_LIGHT = { matchBackground: "#ffe08a", activeMatchBackground: "#ffa657" };
const ON_DARK = { matchBackground: "#5c4b00", activeMatchBackground: "#9e5b00" };
const RULER = { matchOverviewRuler: "#9e7b00", activeMatchColorOverviewRuler: "#d18616" };

export class Find {
  readonly element = h("div", { class: "dm-find", role: "search", "aria-label": "Find in the terminal", hidden: true });
  private readonly input = h("input", { type: "search", placeholder: "Find", "aria-label": "Find in the terminal" });
  private readonly count = h("span", { class: "dm-count", role: "status", "aria-live": "polite" });
  private exact = false;
  private screen: Screen | undefined;
  private ending: { dispose(): void } | undefined;

  constructor() {
    this.element.append(
      this.input,
      this.count,
      toggle("Aa", "Upper and lower case differ", false, (on) => {
        this.exact = on;
        this.look(true);
      }),
      named(button("↑", "The one before (Enter)", () => this.look())),
      named(button("↓", "The one behind (Shift+Enter)", () => this.look(false, true))),
      named(button("×", "Close (Escape)", () => this.close())),
    );
    this.input.addEventListener("input", () => this.look(true));
    this.element.addEventListener("keydown", (event) => this.key(event));
  }

  /** Find in this terminal; when that is done already, the text is chosen to be replaced. */
  open(screen: Screen): void {
    if (this.screen !== screen) {
      this.leave();
      this.screen = screen;
      this.ending = screen.search.onDidChangeResults(({ resultIndex, resultCount }) => this.told(resultIndex, resultCount));
    }
    this.element.hidden = false;
    this.input.focus();
    this.input.select();
    this.look(true);
  }

  /** The focus goes back to the terminal. */
  close(): void {
    const { screen } = this;
    this.leave();
    screen?.terminal.focus();
  }

  /** Nothing is looked for any more, for instance because another tab is shown. */
  leave(): void {
    this.ending?.dispose();
    this.screen?.search.clearDecorations();
    this.screen = this.ending = undefined;
    this.element.hidden = true;
  }

  /** Whether it looks through this terminal. */
  isOn(screen: Screen | undefined): boolean {
    return this.screen !== undefined && this.screen === screen;
  }

  private look(incremental = false, later = false): void {
    const text = this.input.value;
    if (this.screen === undefined) return;
    const { search } = this.screen;
    if (text === "") {
      search.clearDecorations();
      this.count.textContent = "";
      return;
    }
    const decorations = { ...(light() ? ON_LIGHT : ON_DARK), ...RULER };
    const how: ISearchOptions = { caseSensitive: this.exact, incremental, decorations };
    const found = later ? search.findNext(text, how) : search.findPrevious(text, how);
    if (!found) this.told(-1, 0);
  }

  private told(index: number, count: number): void {
    if (this.input.value === "") return;
    const many = count.toLocaleString();
    this.count.textContent = count === 0 ? "not there" : index < 0 ? `${many} or more` : `${(index + 1).toLocaleString()} of ${many}`;
  }

  private key(event: KeyboardEvent): void {
    event.stopPropagation();
    const again = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "f";
    if (again) this.input.select();
    else if (event.key === "Escape") this.close();
    else if (event.key === "Enter" && event.target === this.input) this.look(false, event.shiftKey);
    else return;
    event.preventDefault();
  }
}

function named(made: HTMLButtonElement): HTMLButtonElement {
  made.setAttribute("aria-label", made.title);
  return made;
}
