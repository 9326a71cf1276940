// Moves the window of each explorer on this page over its sheet of pictures. Runs once a figure, however often inlined.
(() => {
  const start = (figure) => {
    figure.dataset.ready = "";
    const view = figure.querySelector(".gensrc-explore-view");
    const image = view.querySelector("img");
    const panel = figure.querySelector(".gensrc-explore-controls");
    const sliders = [...panel.querySelectorAll("input")];
    const sizes = sliders.map((slider) => Number(slider.max) + 1);
    const columns = Number(figure.dataset.columns);
    const rows = Math.ceil(sizes.reduce((a, b) => a * b) / columns);
    let marker = null;

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
      for (const slider of sliders) {
        const text = JSON.parse(slider.dataset.texts)[slider.value];
        slider.setAttribute("aria-valuetext", text);
        slider.parentElement.querySelector(".gensrc-explore-value").textContent = text;
      }
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
      const element = document.createElement("div");
      element.className = "gensrc-explore-map";
      element.setAttribute("aria-hidden", "true");
      element.style.cssText = "position:relative;width:fit-content;max-width:100%";
      const whole = document.createElement("img");
      whole.alt = "";
      whole.src = image.src;
      whole.style.cssText = "display:block;margin:0;max-width:100%;max-height:280px";
      whole.draggable = false;
      marker = document.createElement("span");
      marker.style.cssText =
        `position:absolute;box-sizing:border-box;width:${100 / columns}%;height:${100 / rows}%;` +
        "outline:2px solid #d9480f;outline-offset:1px;pointer-events:none";
      element.append(whole, marker);
      view.after(element);
      return element;
    };

    image.draggable = false;
    if (sliders.length === 2) [view, map()].forEach(draggable);
    sliders.forEach((slider) => slider.addEventListener("input", show));
    panel.hidden = false;
    show();
  };
  document.querySelectorAll("figure.gensrc-explore:not([data-ready])").forEach(start);
})();
