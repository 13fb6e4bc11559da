/**
 * What the loader fetches: all widgets but those with a bundle of their own.
 *
 * A widget is a class in a file of its own, named below as its Python class names it in `kind`:
 *
 *     export class Clock {
 *       private readonly frame: Frame;
 *       private readonly face = h("div", { class: "dm-clock-face" });
 *
 *       constructor(view: View) {
 *         this.frame = new Frame(view, "dm-clock", "Clock of the sandbox", css);
 *         const bar = toolbar("Clock", button("Now", "Ask for the time", () => void this.ask()));
 *         this.frame.build(bar, this.face);                     // bar, banner, question, body, status line
 *         this.frame.onStanding = (now) => { if (now.state === "started") void this.ask(); };
 *         this.frame.line.onEvent = (event) => { ... };         // what the kernel's `emit` sends
 *         this.frame.signal.addEventListener("abort", ...);     // the view ends: stop timers and observers
 *       }
 *
 *       private ask(): Promise<boolean> {                        // `act` says what fails, the banner what helps
 *         return this.frame.act(async () => {
 *           const { value, buffers } = await this.frame.line.call("now", {});
 *           this.face.textContent = visible(String(value["text"]));   // text from a sandbox is only ever text
 *         });
 *       }
 *     }
 *
 * Its style uses the colours of `theme.css` (--dm-*) and classes that begin with dm-; `menu.ts` opens menus.
 * What is large is a bundle of its own, a file like this one in `package.json`; the class in Python names it in
 * `bundle`. No state is kept outside the class: a page has many views.
 */
import { FileTree } from "./file_tree";
import { LogStream } from "./log_stream";
import { coreOf } from "./mount";
import { SandboxPanel } from "./panel";
import { Preview } from "./preview";

export default coreOf({
  "file-tree": (view) => new FileTree(view),
  "log-stream": (view) => new LogStream(view),
  "sandbox-panel": (view) => new SandboxPanel(view),
  preview: (view) => new Preview(view),
});
