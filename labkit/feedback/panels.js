// What core widgets cannot do: hear keys, tell a screen reader what each part is, and say when no kernel answers a click.
// A key presses the part that carries its class (labkit-key-…); which part that is, Python says.

const SILENT =
  "The kernel does not answer. If a cell is running, wait for it; else restart the kernel and run this cell again. What was stored is safe.";
const PATIENCE = 5000; // ms

const SIGNS = { arrowleft: "←", arrowright: "→", backspace: "⌫" };

// The key as written on it; on a layout without that letter or digit (Cyrillic, AZERTY), the key in its place.
const keyOf = (event) =>
  (/^[a-z0-9]$|^.{2,}$/i.test(event.key) ? event.key : event.code.replace(/^(Key|Digit|Numpad)/, "")).toLowerCase();

const control = (part) => (part.matches("button") ? part : part.querySelector("input"));

function render({ model, el }) {
  let root, focused;
  const keyed = (key) =>
    [...root.querySelectorAll(`.labkit-key-${CSS.escape(key)}`)].find((part) => part.checkVisibility());

  function onKey(event) {
    if (!root?.contains(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation(); // JupyterLab's shortcuts (a, b, x, d d, arrows, Enter …) never hear keys meant for the panel
    const typing = event.target.matches("input[type=text]");
    if (typing && !event.isComposing && ["Escape", "Enter"].includes(event.key)) return root.focus({ preventScroll: true });
    if (typing || event.repeat) return;
    const part = keyed(keyOf(event));
    if (!part) return;
    event.preventDefault();
    const target = control(part);
    target.type === "text" ? target.focus() : target.click();
  }

  function dress() {
    root ??= el.closest(".labkit-panel");
    if (!root) return;
    Object.assign(root, { tabIndex: 0, role: "group", ariaLabel: model.get("label") });
    root.dataset.keys = "";
    root.querySelector(".labkit-status")?.setAttribute("role", "status");
    for (const part of root.querySelectorAll("[class*=labkit-key-]")) {
      const key = part.className.match(/labkit-key-(\S+)/)[1], target = control(part);
      if (!target || key === "none") continue;
      if (target.textContent !== key) part.dataset.key = SIGNS[key] ?? key.toUpperCase(); // shown beside the part
      target.setAttribute("aria-keyshortcuts", key);
      if (part.title) target.ariaLabel = part.title;
      if (part.closest(".labkit-rank")) target.ariaPressed = part.classList.contains("labkit-on");
    }
    // What had the focus is gone with its item: the panel takes it, so that keys don't fall through to the notebook.
    const gone = focused && (!focused.isConnected || focused.closest(".labkit-hidden"));
    if (gone && [document.body, focused].includes(document.activeElement)) root.focus({ preventScroll: true });
  }

  const told = document.createElement("div");
  Object.assign(told, { role: "alert", className: "labkit-alert" });
  let waiting;
  function onClick(event) {
    if (!root?.contains(event.target) || !event.target.closest("button, input")) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => { told.textContent = SILENT; root.append(told); }, PATIENCE);
    model.set("asked", model.get("asked") + 1);
    model.save_changes();
  }
  const onHeard = () => { clearTimeout(waiting); told.remove(); };

  const onFocus = (event) => (focused = root?.contains(event.target) ? event.target : null);
  const watcher = new MutationObserver(dress);
  let frame = requestAnimationFrame(function wait() { // until the panel stands in the page
    dress();
    if (root) watcher.observe(root, { childList: true, subtree: true, attributeFilter: ["class", "title"] });
    else frame = requestAnimationFrame(wait);
  });
  // On window and while capturing: before the notebook, which listens on the document.
  window.addEventListener("keydown", onKey, true);
  window.addEventListener("focusin", onFocus, true);
  window.addEventListener("click", onClick, true);
  model.on("change:heard", onHeard);
  return () => {
    clearTimeout(waiting);
    model.off("change:heard", onHeard);
    window.removeEventListener("click", onClick, true);
    cancelAnimationFrame(frame);
    watcher.disconnect();
    window.removeEventListener("keydown", onKey, true);
    window.removeEventListener("focusin", onFocus, true);
  };
}

export default { render };
