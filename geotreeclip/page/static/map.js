// The map: cells that hold places as soft dots over a graticule, equirectangular; click, drag, zoom, arrow keys.

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class PlaceMap {
  constructor(canvas, { pick, hover }) {
    Object.assign(this, { canvas, pick, hover, cells: [], chosen: null, cross: null });
    this.view = { longitude: 0, latitude: 0, scale: 1 }; // scale: pixels a degree
    new ResizeObserver(() => (this.fitted ? this.fit() : this.draw())).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.listen();
  }

  show(cells) {
    this.cells = cells;
    this.most = Math.max(1, ...cells.map((cell) => cell[2]));
    this.fit();
  }

  // All places within the frame.
  fit() {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (!this.cells.length || !width) return;
    const west = Math.min(...this.cells.map((c) => c[0])), east = Math.max(...this.cells.map((c) => c[0]));
    const south = Math.min(...this.cells.map((c) => c[1])), north = Math.max(...this.cells.map((c) => c[1]));
    const scale = Math.min(width / (east - west + 12), height / (north - south + 12), 200);
    this.view = { longitude: (west + east) / 2, latitude: (south + north) / 2, scale };
    this.whole = scale;
    this.fitted = true;
    this.draw();
  }

  zoom(factor, about = this.chosen ?? this.view) {
    const scale = clamp(this.view.scale * factor, (this.whole ?? 1) * 0.8, 400);
    const share = 1 - this.view.scale / scale; // `about` keeps its place on the screen
    this.view.longitude += (about.longitude - this.view.longitude) * share;
    this.view.latitude += (about.latitude - this.view.latitude) * share;
    this.view.scale = scale;
    this.fitted = false;
    this.draw();
  }

  choose(longitude, latitude) {
    this.chosen = { longitude, latitude };
    this.cross = null;
    const [x, y] = this.pixel(longitude, latitude);
    const { width, height } = this.canvas.getBoundingClientRect();
    if (x < 0 || y < 0 || x > width || y > height) Object.assign(this.view, this.chosen);
    this.draw();
  }

  pixel(longitude, latitude) {
    const { width, height } = this.canvas.getBoundingClientRect();
    const { view } = this;
    return [width / 2 + (longitude - view.longitude) * view.scale, height / 2 - (latitude - view.latitude) * view.scale];
  }

  degrees(x, y) {
    const { width, height } = this.canvas.getBoundingClientRect();
    const { view } = this;
    return {
      longitude: clamp(view.longitude + (x - width / 2) / view.scale, -180, 180),
      latitude: clamp(view.latitude - (y - height / 2) / view.scale, -90, 90),
    };
  }

  draw() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const dots = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * dots);
    this.canvas.height = Math.round(height * dots);
    const pen = this.canvas.getContext("2d");
    pen.scale(dots, dots);
    this.graticule(pen, width, height);
    pen.fillStyle = colour("--accent");
    const radius = clamp(this.view.scale * 0.45, 1.6, 9);
    for (const [longitude, latitude, count] of this.cells) {
      const [x, y] = this.pixel(longitude, latitude);
      if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
      pen.globalAlpha = 0.3 + 0.5 * Math.sqrt(count / this.most);
      pen.beginPath();
      pen.arc(x, y, radius, 0, 7);
      pen.fill();
    }
    pen.globalAlpha = 1;
    if (this.chosen) this.marker(pen, this.chosen, colour("--warm"));
    if (this.cross) this.crosshair(pen, this.cross, width, height);
  }

  graticule(pen, width, height) {
    const step = [60, 30, 15, 10, 5, 2, 1].findLast((degrees) => degrees * this.view.scale > 60) ?? 60;
    pen.strokeStyle = colour("--line");
    pen.fillStyle = colour("--quiet");
    pen.font = "11px system-ui, sans-serif";
    pen.lineWidth = 1;
    const from = this.degrees(0, height), to = this.degrees(width, 0);
    for (let degrees = Math.ceil(from.longitude / step) * step; degrees <= to.longitude; degrees += step) {
      const x = Math.round(this.pixel(degrees, 0)[0]) + 0.5;
      pen.beginPath(); pen.moveTo(x, 0); pen.lineTo(x, height); pen.stroke();
      if (x < width - 45) pen.fillText(`${Math.abs(degrees)}°${degrees < 0 ? "W" : degrees > 0 ? "E" : ""}`, x + 3, height - 5);
    }
    for (let degrees = Math.ceil(from.latitude / step) * step; degrees <= to.latitude; degrees += step) {
      const y = Math.round(this.pixel(0, degrees)[1]) + 0.5;
      pen.beginPath(); pen.moveTo(0, y); pen.lineTo(width, y); pen.stroke();
      if (y < height - 18 && y > 14) pen.fillText(`${Math.abs(degrees)}°${degrees < 0 ? "S" : degrees > 0 ? "N" : ""}`, 4, y - 3);
    }
  }

  marker(pen, { longitude, latitude }, stroke) {
    const [x, y] = this.pixel(longitude, latitude);
    for (const [line, style] of [[5, colour("--card")], [2.5, stroke]]) {
      pen.strokeStyle = style;
      pen.lineWidth = line;
      pen.beginPath();
      pen.arc(x, y, 8, 0, 7);
      pen.stroke();
    }
  }

  crosshair(pen, { longitude, latitude }, width, height) {
    const [x, y] = this.pixel(longitude, latitude);
    pen.strokeStyle = colour("--second");
    pen.lineWidth = 1.5;
    pen.beginPath();
    pen.moveTo(x, 0); pen.lineTo(x, height); pen.moveTo(0, y); pen.lineTo(width, y);
    pen.stroke();
  }

  listen() {
    const { canvas } = this;
    let start = null;
    const local = (event) => {
      const frame = canvas.getBoundingClientRect();
      return [event.clientX - frame.left, event.clientY - frame.top];
    };
    canvas.addEventListener("pointerdown", (event) => {
      start = { at: local(event), view: { ...this.view }, moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = local(event);
      if (!start) return this.hover(this.degrees(x, y));
      const dx = x - start.at[0], dy = y - start.at[1];
      start.moved ||= Math.hypot(dx, dy) > 6;
      if (!start.moved) return;
      this.view.longitude = clamp(start.view.longitude - dx / this.view.scale, -180, 180);
      this.view.latitude = clamp(start.view.latitude + dy / this.view.scale, -90, 90);
      this.fitted = false;
      this.draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (start && !start.moved) this.pick(this.degrees(...local(event)));
      start = null;
    });
    canvas.addEventListener("pointercancel", () => (start = null));
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== canvas) return; // the page keeps its scrolling
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.3 : 1 / 1.3, this.degrees(...local(event)));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => { this.cross = null; this.draw(); });
  }

  key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (steps) {
      const move = (event.shiftKey ? 40 : 8) / this.view.scale;
      const from = this.cross ?? this.chosen ?? this.view;
      this.cross = {
        longitude: clamp(from.longitude + steps[0] * move, -180, 180),
        latitude: clamp(from.latitude + steps[1] * move, -90, 90),
      };
      this.hover(this.cross);
      this.draw();
    } else if (event.key === "Enter" || event.key === " ") {
      this.pick(this.cross ?? this.chosen ?? this.view);
    } else if (event.key === "+" || event.key === "=") {
      this.zoom(1.5, this.cross ?? undefined);
    } else if (event.key === "-") {
      this.zoom(1 / 1.5, this.cross ?? undefined);
    } else {
      return;
    }
    event.preventDefault();
  }
}
