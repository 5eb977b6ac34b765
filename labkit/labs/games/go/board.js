// Draws what Python says (`view`) and sends back what was pressed: {move: k} or {do: "new" | "undo" | "other"}.

const SIDES = ["Black", "White"];
const STONES = { X: "black stone", O: "white stone", "+": "empty" };
const KEYS = { p: "pass", n: "new", z: "undo", o: "other", h: "heat" };
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const made = (name, parent, properties = {}) => parent.appendChild(Object.assign(document.createElement(name), properties));

function render({ model, el }) {
  const root = made("div", el, { className: "labkit-go", role: "group", ariaLabel: "Go: you against the policy", tabIndex: -1 });
  const board = made("div", root, { className: "labkit-go-board", role: "group" });
  const foot = made("div", root, { className: "labkit-go-foot" });
  const status = made("div", root, { className: "labkit-go-status", role: "status" });
  made("div", root, { className: "labkit-go-hint", textContent: "Arrow keys move, Enter puts a stone." });
  let points = [], heat = true, at = 0;

  const act = {
    pass: () => model.send({ move: model.get("view").size ** 2 }),
    new: () => model.send({ do: "new" }),
    undo: () => model.send({ do: "undo" }),
    other: () => model.send({ do: "other" }),
    heat: () => { heat = !heat; draw(); },
  };
  const words = { pass: "Pass", undo: "Undo", new: "New game", other: "Change sides", heat: "What the policy thinks" };
  const buttons = Object.fromEntries(Object.entries(words).map(([name, textContent]) => {
    const key = Object.keys(KEYS).find((one) => KEYS[one] === name);
    const button = made("button", foot, { type: "button", textContent, onclick: act[name] });
    button.setAttribute("aria-keyshortcuts", key);
    button.dataset.key = key;
    return [name, button];
  }));

  function lay(size, names) { // the points, row by row from the top
    board.style.setProperty("--size", size);
    board.replaceChildren();
    points = [];
    for (let row = size - 1; row >= 0; row--)
      for (let column = 0; column < size; column++) {
        const move = row * size + column;
        const edges = [column === 0 && "l", column === size - 1 && "r", row === 0 && "b", row === size - 1 && "t"];
        points[move] = made("button", board, { type: "button", className: edges.filter(Boolean).join(" "), tabIndex: -1 });
        points[move].onclick = () => { at = move; model.send({ move }); };
        points[move].onfocus = () => { at = move; rove(); };
        if (row === 0) points[move].dataset.column = names[move][0];
        if (column === 0) points[move].dataset.row = names[move].slice(1);
        made("span", points[move]);
      }
    at = Math.floor((size * size) / 2);
  }

  const rove = () => points.forEach((point, move) => { point.tabIndex = move === at ? 0 : -1; });

  function draw() {
    const view = model.get("view");
    if (points.length !== view.size ** 2) lay(view.size, view.names);
    board.ariaLabel = `Board of ${view.size} by ${view.size}; you are ${SIDES[view.colour]}`;
    points.forEach((point, move) => {
      const stone = view.stones[move], share = view.heat[move] ?? 0, shown = heat && stone === "+" && share >= 0.005;
      point.dataset.stone = stone;
      point.toggleAttribute("data-last", move === view.last);
      point.style.setProperty("--heat", shown ? 0.12 + 0.75 * share : 0);
      point.firstChild.textContent = shown ? Math.round(100 * share) : "";
      point.firstChild.classList.toggle("strong", shown && share > 0.4);
      point.ariaLabel = `${view.names[move]}, ${STONES[stone]}` + (shown ? `, policy ${Math.round(100 * share)} %` : "");
    });
    const passing = heat && view.heat.length ? ` (policy ${Math.round(100 * view.heat.at(-1))} %)` : "";
    buttons.pass.textContent = `Pass${passing}`;
    buttons.heat.ariaPressed = heat;
    if (status.textContent !== view.said) status.textContent = view.said; // said again only when it changed
    status.classList.toggle("alert", view.alert);
    rove();
  }

  function onKey(event) {
    if (!root.contains(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.stopPropagation(); // the notebook's own shortcuts never hear keys meant for the board
    if (event.key in STEPS) {
      const size = model.get("view").size, [dx, dy] = STEPS[event.key];
      const x = Math.min(size - 1, Math.max(0, (at % size) + dx)), y = Math.min(size - 1, Math.max(0, Math.floor(at / size) + dy));
      event.preventDefault();
      points[(at = y * size + x)].focus();
    } else if (event.key.toLowerCase() in KEYS && !event.repeat) {
      event.preventDefault();
      act[KEYS[event.key.toLowerCase()]]();
    }
  }

  // On window and while capturing: before the notebook, which listens on the document.
  window.addEventListener("keydown", onKey, true);
  model.on("change:view", draw);
  draw();
  return () => {
    window.removeEventListener("keydown", onKey, true);
    model.off("change:view", draw);
  };
}

export default { render };
