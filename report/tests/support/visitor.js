// What a visitor sees of the page that is open, as one object.
(() => {
  const all = (q) => [...document.querySelectorAll(q)], css = (e) => getComputedStyle(e);
  const rgb = (text) => {
    const parts = text.match(/[\d.]+/g).map(Number);
    return text.startsWith('color(srgb') ? parts.slice(0, 3).map((v) => v * 255) : parts.slice(0, 3);
  };
  const light = (text) => {
    const [r, g, b] = rgb(text).map((v) => { const s = v / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = css(document.body).backgroundColor;
  const contrast = (e) => { const [a, b] = [light(css(e).color), light(paper)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
  const words = all('main h1, main h2, main h3, main p, main small, main td, main th, main li, main .tag, main .sev, main .arm, main summary, main dt');
  const faint = words.filter((e) => e.textContent.trim() && contrast(e) < 4.5);
  // A number that was measured stands in a cell set to the right, in a plot, or is marked as one.
  const told = (e) => { const at = e.querySelector('[data-t]') || e.closest('[data-t]'); return at ? at.dataset.t : ''; };
  const measured = [...all('main tbody td.r:not(.given)').filter((e) => /\d/.test(e.textContent)), ...all('main .n, main .hit')];
  const bare = measured.filter((e) => !/n = ?\S/.test(told(e)) || !/\b[0-9a-f]{16}\b/.test(told(e)));
  const seen = (e) => e.getClientRects().length > 0;
  // Paper does not scroll.
  const inside = (e) => (e.closest('.scroll, .toc') && !matchMedia('print').matches) || e.closest('svg');
  const wide = all('main *').filter((e) => seen(e) && !inside(e) && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
  const name = (e) => `${e.tagName.toLowerCase()}.${e.className.baseVal ?? e.className}: ${e.textContent.trim().slice(0, 40)} | ${told(e).slice(0, 80)}`;
  return {
    paper, faint: faint.map(name), measured: measured.length, bare: bare.map(name), wide: wide.map(name),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: innerWidth,
    sections: all('main section').map((s) => s.id),
    broken_links: all('.toc a').filter((a) => !document.querySelector(a.getAttribute('href'))).length,
    empty_plots: all('figure').filter((f) => !f.querySelector('svg text')).length,
    // Letters of a label that lie outside of their plot, or on those of the next one.
    cut: all('figure svg').flatMap((svg) => {
      const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll('text')].map((t) => [t, t.getBoundingClientRect()]);
      const out = texts.filter(([, r]) => r.left < box.left - 1 || r.right > box.right + 1 || r.bottom > box.bottom + 1);
      const over = texts.filter(([t, r], i) => texts.some(([u, s], k) => k > i && r.left < s.right - 1 && s.left < r.right - 1 && r.top < s.bottom - 3 && s.top < r.bottom - 3));
      return [...out, ...over].map(([t]) => t.textContent.trim());
    }),
    resources: performance.getEntriesByType('resource').length,
  };
})()
