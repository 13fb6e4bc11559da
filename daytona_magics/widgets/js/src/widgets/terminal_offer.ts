/** What is said of a shell that does not run, and the button that helps. */
import { h, visible } from "./dom";
import type { Frame } from "./frame";
import type { Told } from "./terminal_screen";

export class Offer {
  /** What is offered does not take the focus, so it is said to who cannot see it. */
  readonly element = h("div", { class: "dm-hidden", role: "status", "aria-live": "polite" });
  private offered = "";

  constructor(
    private readonly frame: Frame,
    private readonly recover: () => void,
  ) {}

  draw(told: Told | undefined): void {
    if (told === undefined || told.state === "running" || told.state === "opening") {
      if (this.offered) {
        this.frame.ask.close();
        this.frame.say("");
      }
      this.offered = "";
      return;
    }
    const key = `${told.id} ${told.state} ${told.said}`;
    if (this.offered === key) return;
    this.offered = key;
    this.element.textContent = visible(told.said);
    // How the sandbox is started again is for the banner to say.
    if (told.state === "lost" || told.state === "stopped" || this.frame.standing.state !== "started") {
      this.frame.say(told.said, told.state !== "lost");
      return;
    }
    const words = { ended: "Restart shell", cut: "Reconnect" };
    this.frame.ask.offer(told.said, words[told.state], () => this.recover());
  }
}
