/**
 * A page of the sandbox in a frame.
 *
 * The page may be hostile. Its frame may run scripts, send forms and open windows that are as confined as itself,
 * and nothing else: it cannot navigate the notebook, ask in dialogs, or download by itself. It keeps its origin
 * only where that is another than the notebook's. No message of it is listened to.
 *
 * The signed address is given to the browser by following a link that is in no document, so it stands in no
 * attribute that a saved page, an extension or another widget could read. A frame is never used twice: each has a
 * name that cannot be guessed, so that no other frame can take the link for itself.
 */
import { h, visible } from "./dom";
import { button, Frame } from "./frame";
import css from "./preview.css";
import { Bar } from "./preview_bar";
import { Notice } from "./preview_notice";
import { type Address, find, type Framing, here, mixed, type Place, refusal } from "./preview_where";
import type { View } from "./types";

/** What the kernel says of a page. */
interface Seen extends Framing {
  status: number;
  reason: string;
  title: string;
  to: string;
  absolute: boolean;
  digest: string;
  port: number;
  path: string;
  public: boolean;
}
type Opened = Seen & Partial<Address> & { left?: number; number?: number };

/** Milliseconds between two looks: at a page that is shown, and at one that is waited for. */
const SHOWN_EVERY = 4000;
const WAITED_EVERY = 1500;
/** Seconds before its end at which an address is renewed, unless it is short-lived. */
const RENEW_AT = 60;
/** Characters of the page's title in the status line. */
const LONGEST_TITLE = 100;
const CONFINED = "allow-scripts allow-forms allow-popups";

export class Preview {
  private readonly frame: Frame;
  private readonly bar: Bar;
  private readonly notice = new Notice();
  private readonly stage = h("div", { class: "dm-stage", hidden: true });
  private readonly left = h("span", {});
  private readonly renewal = button("Renew", "Get a new address; the page is loaded again", () => void this.open({ renew: this.number }));
  /** How long the address is good for. No live region: it changes all the time. */
  private readonly term = h("div", { class: "dm-term" }, this.left, this.renewal);
  private place: Place | undefined;
  private seen: Seen | undefined;
  /** The browser's side of the frame: another one, or none, means that the frame is empty. */
  private inside: Window | null = null;
  /** Which address of its port it has: another view may have had it renewed. */
  private number = 0;
  private opening = false;
  private ends = 0;
  private lifetime = 0;
  private looked = 0;
  private asking = false;
  private onScreen = true;
  private down = false;
  private again = false;
  private turn = 0;

  constructor(view: View) {
    const frame = (this.frame = new Frame(view, "dm-preview", "Preview of a page of the sandbox", css));
    const state = (view.model.get("view") ?? {}) as { port?: number; path?: string };
    this.bar = new Bar(state.port ?? 0, state.path ?? "/", this.stage, {
      go: () => void this.open(),
      ports: async () => (await frame.line.call("ports")).value.ports as [number, string][],
      tab: () => this.link((link) => link.click()),
      copy: () => this.link((link) => void this.copy(link.href)),
      say: (text, error) => frame.say(text, error),
    });
    this.term.hidden = true;
    frame.build(this.bar.element, this.notice.element, this.stage, this.bar.grip, this.term);
    this.listen(frame.signal);
    void this.open();
  }

  private listen(signal: AbortSignal): void {
    this.frame.line.onEvent = (event) => {
      if (event.name === "cell" && this.bar.follows !== "never") void this.look(true);
      // The answer that is under way brings the newest one anyway.
      const ended = event.name === "renewed" && event.port === this.bar.port && Number(event.number) > this.number;
      if (ended && this.place && !this.opening) void this.open();
    };
    this.frame.onStanding = (now) => {
      if (now.state === "started") void this.open();
      else this.hide();
    };
    this.frame.onBack = () => void this.open();
    const watch = new IntersectionObserver((entries) => {
      this.onScreen = entries.some((entry) => entry.isIntersecting);
    });
    watch.observe(this.frame.element);
    const timer = setInterval(() => this.tick(), 500);
    signal.addEventListener("abort", () => {
      this.turn += 1;
      watch.disconnect();
      clearInterval(timer);
    });
  }

  // -- looking -------------------------------------------------------------------------------------------------

  private tick(): void {
    this.count();
    this.refill();
    const looking = this.onScreen && !document.hidden && this.frame.alive && this.frame.standing.state === "started";
    if (!looking || this.asking) return;
    const now = Date.now();
    if (this.place && this.ends - now < Math.min(RENEW_AT, this.lifetime / 3) * 1000) void this.open({ renew: this.number });
    else if (now - this.looked > (this.place && !this.down ? SHOWN_EVERY : WAITED_EVERY)) void this.look(false);
  }

  private count(): void {
    if (!this.place || this.ends === 0) {
      this.left.textContent = "";
      return;
    }
    const seconds = Math.max(0, Math.round((this.ends - Date.now()) / 1000));
    const said = seconds > 90 ? `${Math.round(seconds / 60)} min` : `${seconds} s`;
    this.left.textContent = seconds > 0 ? `address good for ${said}` : "the address has expired";
  }

  /** See how the page is, and load it again when a cell, or anything else, has changed it. */
  private async look(cell: boolean): Promise<void> {
    if (this.asking) {
      // What a cell did must not be missed because somebody looked before it had ended.
      this.again ||= cell;
      return;
    }
    if (this.place === undefined) return this.open({ quiet: true });
    this.asking = true;
    const turn = this.turn;
    try {
      const files = cell || this.bar.follows === "changes";
      const { value } = await this.frame.line.call("look", { port: this.bar.port, path: this.bar.path, files });
      if (turn === this.turn) this.compare(value as unknown as Seen, files);
    } catch (error) {
      if (turn === this.turn) this.failed(error);
    } finally {
      this.asking = false;
      this.looked = Date.now();
    }
    if (this.again) {
      this.again = false;
      void this.look(true);
    }
  }

  private compare(seen: Seen, files: boolean): void {
    const before = this.seen;
    if (seen.status === 0) {
      if (!this.down) this.frame.say(`The server has stopped answering: ${seen.reason}`, true);
      if (!this.down) this.lost(seen);
      this.down = true;
      return;
    }
    const changed = files && before?.digest !== "" && before?.digest !== seen.digest;
    this.seen = files ? seen : { ...seen, digest: before?.digest ?? "" };
    if (this.down || changed) void this.open({ loaded: this.down ? "The server answers again." : "Changed; loaded again." });
  }

  // -- showing -------------------------------------------------------------------------------------------------

  /** Ask for an address, and show what is there. */
  private async open(how: { renew?: number; quiet?: boolean; loaded?: string } = {}): Promise<void> {
    const turn = ++this.turn;
    this.asking = this.opening = true;
    if (!how.quiet) this.frame.say(how.loaded ?? "Asking …");
    try {
      const { port, path } = this.bar;
      const { value } = await this.frame.line.call("open", { port, path, renew: how.renew ?? 0 });
      if (turn !== this.turn) return;
      const opened = value as unknown as Opened;
      this.seen = opened;
      if (opened.status === 0) this.waits(opened);
      else await this.show(opened, turn, how.renew !== undefined ? "The address was renewed." : how.loaded ?? "");
    } catch (error) {
      if (turn === this.turn) this.failed(error);
    } finally {
      if (turn === this.turn) {
        this.asking = this.opening = false;
        this.looked = Date.now();
      }
    }
  }

  private async show(opened: Opened, turn: number, said: string): Promise<void> {
    const page = here();
    const address = { url: opened.url ?? "", listener: opened.listener ?? 0, below: opened.below ?? "" };
    const place = await find(address, page);
    if (turn !== this.turn) return;
    this.down = false;
    if (place === undefined) {
      this.hide();
      this.notice.show("This page cannot reach the preview.", `It is served on port ${address.listener} of the kernel's machine.`
        + " With daytona-magics installed beside the notebook server, and that restarted, it can be; or forward that port.",
        [["Try again", () => void this.open()]]);
      return;
    }
    this.place = place;
    this.number = opened.number ?? 0;
    this.lifetime = opened.left ?? 0;
    this.ends = Date.now() + this.lifetime * 1000;
    this.term.hidden = false;
    this.count();
    const refused = refusal(opened, place, page);
    const hint = "A tab of its own can show it.";
    const tab: [string, () => void] = ["Open in a tab", () => this.link((link) => link.click())];
    if (refused) this.explain("This page does not want to be shown in a frame.", `Its server says ${refused}. ${hint}`, tab);
    else if (mixed(place, page)) this.explain("The browser shows no unencrypted page inside an encrypted one.", hint, tab);
    else if (opened.to) this.explain("This address leads out of the preview.", `It redirects to ${opened.to}.`, tab);
    else this.fill(place);
    this.told(opened, said);
  }

  private fill(place: Place): void {
    this.notice.close();
    this.stage.hidden = false;
    const own = place.own && new URL(place.root).origin !== window.location.origin;
    const name = `dm-${[...crypto.getRandomValues(new Uint32Array(4))].map((one) => one.toString(36)).join("")}`;
    const frame = h("iframe", {
      name,
      title: `Port ${this.bar.port} of the sandbox`,
      sandbox: own ? `${CONFINED} allow-same-origin` : CONFINED,
      referrerpolicy: "no-referrer",
    });
    this.stage.replaceChildren(frame);
    this.inside = frame.contentWindow;
    // Outside of the page it is nobody's target: the browser would open a window of that name.
    if (this.inside) h("a", { href: this.href(place), target: name, referrerpolicy: "no-referrer" }).click();
  }

  /** A frame that comes into the page only now, or is moved in it (a notebook is put beside another), is empty. */
  private refill(): void {
    const now = this.stage.querySelector("iframe")?.contentWindow ?? null;
    if (this.place && !this.down && now && now !== this.inside) this.fill(this.place);
  }

  private href(place: Place): string {
    return place.root + this.bar.path.replace(/^\/+/, "");
  }

  private link(act: (link: HTMLAnchorElement) => void): void {
    if (this.place === undefined) this.frame.say("There is no address yet.", true);
    else act(h("a", { href: this.href(this.place), target: "_blank", rel: "noopener noreferrer" }));
  }

  private async copy(url: string): Promise<void> {
    try {
      await navigator.clipboard.writeText(url);
      this.frame.say("Copied. Whoever has this link sees the page, until the address ends.");
    } catch {
      this.frame.say("The browser does not let this page copy.", true);
    }
  }

  private hide(): void {
    this.stage.replaceChildren();
    this.stage.hidden = true;
    this.place = undefined;
    this.term.hidden = true;
    this.notice.close();
    this.frame.say("");
  }

  // -- saying --------------------------------------------------------------------------------------------------

  private explain(title: string, text: string, ...acts: [string, () => void][]): void {
    this.stage.replaceChildren();
    this.stage.hidden = true;
    this.notice.show(title, visible(text), acts);
  }

  private told(seen: Seen, said: string): void {
    const title = visible(seen.title);
    const short = title.length > LONGEST_TITLE ? `${title.slice(0, LONGEST_TITLE)}…` : title;
    const words = [said, `HTTP ${seen.status}`, short && `“${short}”`];
    if (this.place?.own === false && seen.absolute) {
      words.push("It loads files by absolute paths, which miss below the notebook's server; relative ones work.");
    }
    if (this.place?.bare) {
      words.push("Scripts and styles may be missing until the notebook server is restarted with daytona-magics beside it.");
    }
    words.push(seen.public ? "The sandbox is public: anybody with its plain address sees this." : "");
    this.frame.say(words.filter(Boolean).join(" · "), seen.status >= 500);
  }

  /** Nothing answers, and nothing is shown. */
  private waits(seen: Seen): void {
    this.hide();
    this.lost(seen);
  }

  private lost(seen: Seen): void {
    const title = `Nothing answers on port ${seen.port} yet.`;
    const more = title.toLowerCase().startsWith(seen.reason) ? "" : `${visible(seen.reason)}. `;
    this.notice.show(title, `${more}As soon as it does, it is shown here.`, [
      ["Show its output", () => void this.log()],
      ["Try again", () => void this.open()],
    ]);
  }

  private async log(): Promise<void> {
    await this.frame.act(async () => {
      const { value } = await this.frame.line.call("log", { port: this.bar.port });
      const lines = (value.lines as string[]).map(visible);
      const state = value.running ? "It is running." : `It has ended (exit code ${String(value.code)}).`;
      this.notice.output(lines.join("\n") || "(It printed nothing.)", `${state} %sandbox logs ${String(value.id)} shows all.`);
    });
  }

  private failed(error: unknown): void {
    const { code } = this.frame.failed(error);
    // How the sandbox stands is the banner's to say, with what helps.
    if (code !== "refused" && code !== "failed") this.hide();
  }
}
