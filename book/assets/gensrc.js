// What a page does beyond the theme: a link into a folded part opens it, and paper gets light colours and all answers.
(() => {
  const page = document.documentElement.dataset;
  const unfold = (element) => {
    for (let e = element; e; e = e.parentElement) {
      if (e.tagName === "DETAILS") e.open = true;
      if (e.classList.contains("toggle-hidden")) e.querySelector(".toggle-button")?.click();
    }
  };
  const follow = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target?.closest("details:not([open]), .toggle-hidden")) return;
    unfold(target);
    target.scrollIntoView();
  };
  addEventListener("hashchange", follow);
  addEventListener("load", follow);

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
