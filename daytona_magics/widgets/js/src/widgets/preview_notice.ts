/** What is said in place of a page: why there is none, what helps, and what the server printed. */
import { h } from "./dom";
import { button } from "./frame";

export class Notice {
  private readonly title = h("strong", {});
  private readonly text = h("p", {});
  private readonly acts = h("div", {});
  private readonly printed = h("pre", { class: "dm-output", hidden: true, tabindex: 0, "aria-label": "Output of the server" });
  readonly element = h("div", { hidden: true, class: "dm-notice", role: "group" });

  constructor() {
    this.element.append(this.title, this.text, this.acts, this.printed);
  }

  show(title: string, text: string, acts: [string, () => void][]): void {
    // The same again leaves the reader's focus where it is.
    const same = !this.element.hidden && this.title.textContent === title && this.text.textContent === text;
    if (same) return;
    this.element.hidden = false;
    this.element.setAttribute("aria-label", title);
    this.title.textContent = title;
    this.text.textContent = text;
    this.acts.replaceChildren(...acts.map(([name, act]) => button(name, "", act)));
    this.printed.hidden = true;
  }

  /** The end of what the server printed, below what is said. */
  output(text: string, state: string): void {
    this.text.textContent = state;
    this.printed.textContent = text;
    this.printed.hidden = false;
    this.printed.scrollTop = this.printed.scrollHeight;
  }

  close(): void {
    this.element.hidden = true;
  }
}
