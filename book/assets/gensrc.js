// What a page does beyond the theme: folded parts open on paper and where a link leads into them.
(() => {
  const open = (element) => {
    for (let e = element; e; e = e.parentElement) {
      if (e.tagName === "DETAILS") e.open = true;
      if (e.classList.contains("toggle-hidden")) e.querySelector(".toggle-button")?.click();
    }
  };
  const follow = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.closest("details:not([open]), .toggle-hidden")) {
      open(target);
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", follow);
  addEventListener("load", follow);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((e) => { e.open = true; }));
})();
