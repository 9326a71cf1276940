// What a page does beyond the theme: a link into a folded part opens it; a formula in the text that is wider than a
// phone scrolls by itself; what scrolls can be reached by Tab; paper gets light colours and all answers.
(() => {
  const page = document.documentElement.dataset;
  const unfold = (element) => {
    for (let e = element; e; e = e.parentElement) {
      if (e.tagName === "DETAILS") e.open = true;
      if (e.classList.contains("toggle-hidden")) e.querySelector(".toggle-button")?.click();
    }
  };
  const follow = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target?.closest("details:not([open]), .toggle-hidden")) return;
    unfold(target);
    target.scrollIntoView();
  };
  addEventListener("hashchange", follow);
  addEventListener("load", follow);
  // The theme lets Tab reach what scrolls, but looks before fonts and pictures are there; a resize makes it look again.
  addEventListener("load", () => dispatchEvent(new Event("resize")));

  addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    for (const formula of document.querySelectorAll("mjx-container:not([display])")) {
      const block = formula.closest("p, li, dd, dt");
      if (block && formula.offsetWidth > block.clientWidth) formula.classList.add("gensrc-wide");
    }
  });

  let folded = [];
  let theme = page.theme;
  addEventListener("beforeprint", () => {
    theme = page.theme;
    page.theme = "light";
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((e) => { e.open = true; });
  });
  addEventListener("afterprint", () => {
    page.theme = theme;
    folded.forEach((e) => { e.open = false; });
  });
})();
