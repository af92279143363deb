// Runs the script of a landscape page without a browser: a document of stubs that records what the canvases fill.
// node landscape_page.js PAGE prints JSON: the readings after some actions of a user.
"use strict";
const html = require("fs").readFileSync(process.argv[2], "utf8");
const script = html.split("<script>")[1].split("</script>")[0];

function element() {
  const node = { children: [], listeners: {}, attributes: {}, clientWidth: 400, faces: [] };
  const context = {
    beginPath() {}, moveTo() {}, lineTo() {}, closePath() {}, stroke() {}, arc(x, y) { node.marker = [x, y]; },
    fill() { node.faces.push(this.fillStyle); },
  };
  return Object.assign(node, {
    append(...nodes) { node.children.push(...nodes); },
    setAttribute(name, value) { node.attributes[name] = value; },
    addEventListener(name, handle) { node.listeners[name] = handle; },
    setPointerCapture() {},
    getBoundingClientRect: () => ({ left: 0, top: 0, width: 400, height: 400 }),
    getContext() { node.faces = []; return context; },
  });
}

const named = { networks: element(), flat: element() };
const radios = ["loss", "error"].map(value => Object.assign(element(), { value }));
const document = {
  createElement: element,
  getElementById: name => named[name],
  querySelectorAll: () => radios,
};
const window = { devicePixelRatio: 1, addEventListener() {} };
const { panels, view } = new Function("document", "window", `${script}; return { panels, view };`)(document, window);
const [panel] = panels;
const result = { captions: named.networks.children.map(figure => figure.children[0].textContent) };
result.faces = panel.canvas.faces.length;
panel.canvas.listeners.pointermove({ clientX: panel.canvas.marker[0], clientY: panel.canvas.marker[1] });
result.reading = panel.output.textContent;
const before = { ...view }, [lossFaces] = [panel.canvas.faces.join()];
panel.canvas.listeners.pointerdown({ clientX: 0, clientY: 0, pointerId: 1 });
panel.canvas.listeners.pointermove({ clientX: 50, clientY: 0 });
panel.canvas.listeners.pointerup({});
result.turned = view.turn - before.turn;
named.flat.checked = true;
named.flat.listeners.change({ target: named.flat });
const turned = view.turn;
panel.canvas.listeners.pointerdown({ clientX: 0, clientY: 0, pointerId: 1 });
panel.canvas.listeners.pointermove({ clientX: 5, clientY: -9 });
panel.canvas.listeners.pointercancel({}); // the browser scrolls
panel.canvas.listeners.pointermove({ clientX: 500, clientY: 500 });
result.turnedAfterCancel = view.turn - turned;
result.stillFromAbove = named.flat.checked;
panel.canvas.listeners.keydown({ key: "ArrowDown", preventDefault() {} });
result.fromAboveByKey = named.flat.checked;
result.role = panel.canvas.attributes.role;
panels[1].network.loss = panel.network.loss = panel.network.loss.map(row => row.map(() => null));
radios[0].listeners.change();
result.places = panel.points.flat(2).every(Number.isFinite);
radios[1].listeners.change();
result.recoloured = panel.canvas.faces.join() !== lossFaces;
console.log(JSON.stringify(result));
