// Moves the window of each explorer on this page over its sheet of pictures. Runs once a figure, however often inlined.
(() => {
  const start = (figure) => {
    figure.dataset.ready = "";
    const view = figure.querySelector(".gensrc-explore-view");
    const image = view.querySelector("img");
    const columns = Number(figure.dataset.columns);
    const controls = JSON.parse(figure.dataset.controls);
    const sizes = controls.map((control) => control.texts.length);
    const rows = Math.ceil(sizes.reduce((a, b) => a * b) / columns);
    let marker = null;

    const make = (tag, attributes, ...children) => {
      const element = document.createElement(tag);
      Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
      element.append(...children);
      return element;
    };
    const values = controls.map(() => make("span", { class: "gensrc-explore-value", "aria-hidden": "true" }));
    const sliders = controls.map(({ label, value }, i) =>
      make("input", { type: "range", min: 0, max: sizes[i] - 1, step: 1, value, "aria-label": label }));
    const panel = make("div", { class: "gensrc-explore-controls" }, ...controls.map(({ label }, i) =>
      make("label", {}, make("span", {}, label), " ", sliders[i], " ", values[i])));

    // The same order as `position` in widgets.py: the first control runs fastest, the second from its end.
    const place = () => {
      let index = 0;
      let step = 1;
      sliders.forEach((slider, i) => {
        const value = Number(slider.value);
        index += step * (i === 1 ? sizes[i] - 1 - value : value);
        step *= sizes[i];
      });
      return index;
    };

    const show = () => {
      const column = place() % columns;
      const row = Math.floor(place() / columns);
      image.style.left = `${-100 * column}%`;
      image.style.top = `${-100 * row}%`;
      if (marker) {
        marker.style.left = `${(100 * column) / columns}%`;
        marker.style.top = `${(100 * row) / rows}%`;
      }
      sliders.forEach((slider, i) => {
        values[i].textContent = controls[i].texts[slider.value];
        slider.setAttribute("aria-valuetext", values[i].textContent);
      });
    };

    // With two controls the sheet is a plane: right is more of the first, up is more of the second.
    const draggable = (area) => {
      area.style.touchAction = "none";
      area.style.cursor = "crosshair";
      const follow = (event) => {
        const box = area.getBoundingClientRect();
        const part = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
        part.forEach((p, i) => {
          sliders[i].value = Math.min(sizes[i] - 1, Math.max(0, Math.floor(p * sizes[i])));
        });
        show();
      };
      area.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        area.setPointerCapture(event.pointerId);
        follow(event);
      });
      area.addEventListener("pointermove", (event) => {
        if (area.hasPointerCapture(event.pointerId)) follow(event);
      });
    };

    const map = () => {
      const whole = make("img", { alt: "", src: image.src, draggable: false });
      whole.style.cssText = "display:block;margin:0;max-width:100%;max-height:280px";
      marker = make("span", {});
      marker.style.cssText =
        `position:absolute;box-sizing:border-box;width:${100 / columns}%;height:${100 / rows}%;` +
        "outline:2px solid #d9480f;outline-offset:1px;pointer-events:none";
      const element = make("div", { class: "gensrc-explore-map", "aria-hidden": "true" }, whole, marker);
      element.style.cssText = "position:relative;width:fit-content;max-width:100%";
      view.after(element);
      return element;
    };

    // The one picture makes room for a window on the sheet of all, of the same size.
    const [width, height] = ["width", "height"].map((side) => image.getAttribute(side));
    view.style.cssText =
      `position:relative;overflow:hidden;max-width:100%;aspect-ratio:${width}/${height};width:${width}px`;
    image.style.cssText =
      `position:absolute;max-width:none;margin:0;width:${100 * columns}%;height:${100 * rows}%;image-rendering:pixelated`;
    image.src = figure.dataset.sheet;
    image.draggable = false;
    figure.querySelector("figcaption").before(panel);
    if (sliders.length === 2) [view, map()].forEach(draggable);
    sliders.forEach((slider) => slider.addEventListener("input", show));
    show();
  };
  document.querySelectorAll("figure.gensrc-explore:not([data-ready])").forEach(start);
})();
