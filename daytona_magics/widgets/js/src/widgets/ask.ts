/** One question at a time, inside the widget: a name, or a yes. A page's own dialogs would stop the notebook. */
import { h } from "./dom";

type Act = (text: string) => unknown;

export class Ask {
  readonly element = h("div", { hidden: true });

  /** Ask for a text. */
  text(question: string, value: string, yes: string, act: Act): void {
    const input = h("input", { type: "text", value, "aria-label": question, spellcheck: "false" });
    this.open(question, [input], yes, "", () => act(input.value), input);
    input.setSelectionRange(0, value.lastIndexOf(".") > 0 ? value.lastIndexOf(".") : value.length);
  }

  /** Ask before something that cannot be undone. */
  confirm(question: string, yes: string, act: () => unknown): void {
    this.open(question, [], yes, "dm-danger", act);
  }

  /** Offer what would help. */
  offer(told: string, yes: string, act: () => unknown): void {
    this.open(told, [], yes, "", act, undefined, false);
  }

  close(): void {
    this.element.hidden = true;
    this.element.replaceChildren();
  }

  private open(
    question: string,
    fields: HTMLElement[],
    yes: string,
    kind: string,
    act: () => unknown,
    field: HTMLElement | undefined = undefined,
    focus = true,
  ): void {
    const agree = () => {
      this.close();
      void act();
    };
    const no = h("button", { onclick: () => this.close() }, "Cancel");
    const form = h("div", { class: "dm-ask", role: "alertdialog", "aria-label": question },
      h("span", {}, question), ...fields, h("button", { class: kind, onclick: agree }, yes), no);
    form.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Escape") this.close();
      else if (event.key === "Enter" && event.target === field) agree();
      else return;
      event.preventDefault();
    });
    this.element.hidden = false;
    this.element.replaceChildren(form);
    if (focus) (field ?? no).focus();
  }
}
