/**
 * The module every widget brings along. It fetches the rest once per page: the text of a hidden model per bundle,
 * imported from a blob and kept for all widgets of that version.
 *
 * Nothing happens before `render`: a front end drops the messages of models whose initialisation takes long.
 */
import type { Core, Model, RenderContext } from "./types";

type Cache = Map<string, Promise<Core>>;

/** A model as ipywidgets has it, of which anywidget shows its widgets a part. */
interface Whole {
  _handle_comm_msg?: (message: unknown) => unknown;
  comm?: { on_msg?: (act: (message: unknown) => unknown) => void };
}

const NAME = "IPY_MODEL_";

function cache(): Cache {
  const all = globalThis as { __daytona_magics?: Cache };
  return (all.__daytona_magics ??= new Map());
}

async function load(assets: Model): Promise<Core> {
  const version = String(assets.get("version"));
  let module = cache().get(version);
  if (module === undefined) {
    const url = URL.createObjectURL(new Blob([String(assets.get("source"))], { type: "text/javascript" }));
    module = import(/* @vite-ignore */ url).then((made: { default: Core }) => made.default);
    cache().set(version, module);
    module.catch(() => cache().delete(version)).finally(() => URL.revokeObjectURL(url));
  }
  return module;
}

/** Another model of this kernel, by a trait's reference. */
async function referred(model: Model, reference: unknown): Promise<Model> {
  return model.widget_manager.get_model(String(reference).slice(NAME.length));
}

/**
 * Let a model hear the kernel in any case. anywidget gives a model two seconds to be ready, which a page that is loaded
 * again on a busy machine does not keep; it then drops, without a word, all that the kernel says to that model.
 */
function hearing(model: Model): Model {
  const whole = model as unknown as Whole;
  const general = Object.getPrototypeOf(Object.getPrototypeOf(whole) ?? null) as Whole | null;
  const handle = general?._handle_comm_msg;
  if (handle && handle !== whole._handle_comm_msg) whole.comm?.on_msg?.((message) => handle.call(whole, message));
  return model;
}

export default {
  async render(context: RenderContext): Promise<() => void> {
    const { model, el } = context;
    const ending = new AbortController();
    context.signal?.addEventListener("abort", () => ending.abort(), { once: true });
    try {
      const [core, control] = await Promise.all([
        referred(model, model.get("_assets")).then(load),
        referred(model, model.get("_control")).then(hearing),
        referred(model, model.get("_self")).then(hearing),
      ]);
      core.mount(String(model.get("_kind")), { model, control, el, signal: ending.signal });
    } catch (error) {
      // A page that forbids modules from blobs, or a notebook whose kernel is gone.
      const ended = model.get("_ended") as { text?: string } | undefined;
      const text = `This widget cannot be shown here (${String(error)}). Run its cell again.`;
      el.style.whiteSpace = "pre-wrap";
      el.textContent = ended?.text ? `${ended.text}\n\n${text}` : text;
    }
    return () => ending.abort();
  },
};
