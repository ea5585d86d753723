// The picture of the first map, moved from the page's own text to the map's place, leaves when the map is drawn.
const firstPicture = new MutationObserver(() => {
  const picture = document.getElementById('first-map'), place = document.querySelector('#map-panel .map-place');
  if (picture && place && picture.parentNode !== place) {
    place.prepend(picture);
    document.getElementById('first-look').remove();
  }
  const plot = document.querySelector('#map .js-plotly-plot');
  if (!plot?.once) return;
  firstPicture.disconnect();
  plot.once('plotly_afterplot', () => requestAnimationFrame(forgetPicture));
});
firstPicture.observe(document.getElementById('react-entry-point'), {childList: true, subtree: true});

function forgetPicture() {
  for (const name of ['first-look', 'first-map']) document.getElementById(name)?.remove();
}

// What needs no server: which token is picked, its mark on the map, and which panel is asked for what. A panel that is
// not looked at is asked for nothing.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  explorer: {
    // Tokens 1 and 2, the latest last.
    pick(click, split, picked) {
      if (window.dash_clientside.callback_context.triggered_id === 'split') return {split, tokens: []};
      if (!click) return window.dash_clientside.no_update;
      const token = click.points[0].customdata;
      return {split, tokens: [...picked.tokens.filter(other => other !== token).slice(-1), token]};
    },
    mark(picked) {
      const plot = document.querySelector('#map .js-plotly-plot'), annotations = [];
      const look = {ax: 18, ay: -18, arrowcolor: '#ff5a36', bgcolor: '#ff5a36', font: {color: '#fff', size: 12}, borderpad: 2};
      picked.tokens.forEach((token, number) => {
        for (const trace of plot?._fullData || []) {
          const i = (trace.customdata || []).indexOf(token);
          if (i >= 0) annotations.push({x: trace.x[i], y: trace.y[i], text: String(number + 1), ...look});
        }
      });
      if (plot && window.Plotly) window.Plotly.relayout(plot, {annotations});
      return window.dash_clientside.no_update;
    },
    token: (picked, kept, tab) => tab === 'token' ? {picked, kept} : window.dash_clientside.no_update,
    path: (picked, tab) => tab === 'path' ? picked : window.dash_clientside.no_update,
    compare: (kept, tab) => tab === 'compare' ? {kept} : window.dash_clientside.no_update,
    sample: (tab) => tab === 'sample' ? {} : window.dash_clientside.no_update,
    // The image whose codes are shown: that of a token picked, or the first in the lasso, since the panel was last seen.
    codes(picked, kept, next, tab, image, seen, facts) {
      const none = window.dash_clientside.no_update;
      if (tab !== 'codes') return [none, none];
      const images = kept && kept.length ? kept : null;
      const now = {token: picked.tokens.at(-1) ?? null, first: images ? images[0] : null};
      if (window.dash_clientside.callback_context.triggered_id === 'next-image') {
        const after = images ? images.find(each => each > image) ?? images[0] : (image + 1) % facts.n[picked.split];
        return [after, now];
      }
      if (now.token !== null && now.token !== seen.token) return [Math.floor(now.token / facts.per_image), now];
      if (now.first !== null && now.first !== seen.first) return [now.first, now];
      return [none, now];
    },
    // Another map is asked for, so the picture shows what is no longer wanted.
    forget: () => forgetPicture(),
    // Whether the map is drawn, or will not be before three seconds have gone.
    drawn(n) {
      const none = window.dash_clientside.no_update;
      const there = document.querySelector('#map .js-plotly-plot')?._fullData?.length > 0;
      if (there) forgetPicture();
      return there || n > 30 ? [true, true] : [none, none];
    },
    turn: (tab) => ['token', 'path', 'codes', 'compare', 'sample'].map(name => name !== tab),
    // The frames of the ways between two tokens, all at one place.
    step: (n, at, last) => at >= last ? 0 : at + 1,
    draw(at, frames) {
      for (const [name, addresses] of Object.entries(frames || {})) {
        const image = document.getElementById(`moving-${name}`)?.querySelector('img');
        if (image) image.src = addresses[at];
      }
      return window.dash_clientside.no_update;
    },
  },
});
