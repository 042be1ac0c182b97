// The console's pages work without this file; it makes them live and keeps what is being typed.
"use strict";

(() => {
  const body = document.body;
  const words = body.dataset;
  const page = document.getElementById("page");
  const byId = (id) => document.getElementById(id);
  let csrf = words.csrf;

  // -- what is being typed survives a reload, a lost line and a sign-out by time ----------------

  const drafts = `desk.draft.${words.person}.`;
  const caseId = page && page.dataset.case;

  const store = {
    read(name) {
      try { return JSON.parse(localStorage.getItem(name)) || {}; } catch { return {}; }
    },
    write(name, value) {
      try {
        if (value) localStorage.setItem(name, JSON.stringify(value));
        else localStorage.removeItem(name);
      } catch { /* private browsing: nothing is kept */ }
    },
  };

  const fresh = () => Array.from(crypto.getRandomValues(new Uint8Array(16)),
    (octet) => octet.toString(16).padStart(2, "0")).join("");

  const grow = (area) => {
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight + 2, innerHeight * 0.4)}px`;
  };

  function keepDrafts() {
    for (const area of document.querySelectorAll("textarea[data-keep]")) {
      const name = `${drafts}${caseId}.${area.dataset.keep}`;
      const key = area.form.elements.key;
      const kept = store.read(name);
      if (!area.value && kept.text) {
        area.value = kept.text;
        if (key && kept.key) key.value = kept.key;
        area.form.dataset.tried = kept.tried || "";
      }
      grow(area);
      area.addEventListener("input", () => {
        // Words that may already have left get a key of their own once they are changed.
        if (key && area.form.dataset.tried && area.form.dataset.tried !== area.value) {
          key.value = fresh();
          area.form.dataset.tried = "";
        }
        keep(area);
        grow(area);
      });
    }
  }

  function keep(area) {
    const name = `${drafts}${caseId}.${area.dataset.keep}`;
    const key = area.form.elements.key;
    store.write(name, area.value && {
      text: area.value, key: key && key.value, tried: area.form.dataset.tried || "",
    });
    const kept = byId("kept");
    if (kept && area.dataset.keep === "reply") kept.textContent = area.value ? kept.dataset.kept : "";
  }

  // -- sending forms without leaving the page ------------------------------------------------------

  function complain(sentence) {
    const error = byId("error");
    error.textContent = sentence;
    error.hidden = !sentence;
  }

  async function send(form) {
    if (form.dataset.busy) return;
    const area = form.querySelector("textarea[data-keep]");
    const files = form.querySelector("input[type=file]");
    const heavy = Boolean(files && files.files.length);
    form.dataset.busy = "1";
    form.classList.add("busy");
    if (area) {
      area.readOnly = true;
      form.dataset.tried = area.value;
      keep(area);
    }
    try {
      const response = await fetch(form.action, {
        method: "POST",
        headers: { Accept: "application/json", "X-CSRF-Token": csrf },
        body: heavy ? new FormData(form) : new URLSearchParams(new FormData(form)),
        credentials: "same-origin",
        signal: AbortSignal.timeout ? AbortSignal.timeout(heavy ? 180000 : 20000) : undefined,
      });
      const answer = await response.json().catch(() => ({}));
      if (response.ok) {
        complain("");
        if (area) {
          area.value = "";
          form.dataset.tried = "";
          if (form.elements.key) form.elements.key.value = fresh();
          keep(area);
          grow(area);
        }
        if (files) files.value = "";
        if (answer.next) { location.assign(answer.next); return; }
        await look(area && area.dataset.keep === "reply");
      } else {
        // Refused, so it has not left: the same words may be sent again under the same key.
        complain(response.status === 401 ? words.gone : answer.error || words.offline);
        if (response.status !== 401) await look();
      }
    } catch {
      complain(words.offline);
    } finally {
      delete form.dataset.busy;
      form.classList.remove("busy");
      if (area) {
        area.readOnly = false;
        area.focus();
      }
    }
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.hasAttribute("data-leave")) {
      for (const name of Object.keys(localStorage)) {
        if (name.startsWith("desk.draft.")) localStorage.removeItem(name);
      }
    }
    if (!form.hasAttribute("data-post")) return;
    event.preventDefault();
    send(form);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)
        && event.target.matches("textarea[data-keep]") && !event.isComposing) {
      event.preventDefault();
      event.target.form.requestSubmit();
    }
  });

  // -- looking again -------------------------------------------------------------------------------

  let looking = false;
  let lookAfter = false;

  async function look(toEnd) {
    if (looking) { lookAfter = true; return; }
    looking = true;
    try {
      const response = await fetch(page.dataset.liveFrom, { credentials: "same-origin" });
      if (response.status === 401) { signedOut(); return; }
      if (!response.ok) return;
      const news = new DOMParser().parseFromString(await response.text(), "text/html");
      renew(news, toEnd);
    } catch { /* the stream says when the line is back */ } finally {
      looking = false;
      if (lookAfter) { lookAfter = false; look(); }
    }
  }

  function renew(news, toEnd) {
    const live = news.querySelector("[data-live]");
    csrf = live.dataset.csrf;
    for (const field of document.querySelectorAll("input[name=csrf]")) field.value = csrf;
    count(Number(live.dataset.waiting), live.dataset.urgent === "1", live.dataset.first);
    if (page.dataset.case) renewCase(news, live, toEnd);
    else replace(page, live.outerHTML);
  }

  // Times inside move each minute; what is the same is left alone, so focus and selection stay.
  const shown = new WeakMap();

  function replace(place, html) {
    if (shown.get(place) === html) return false;
    shown.set(place, html);
    const focus = place.contains(document.activeElement) ? document.activeElement.id : "";
    const open = [...place.querySelectorAll("details[open][id]")].map((fold) => fold.id);
    place.innerHTML = html;
    for (const id of open) if (byId(id)) byId(id).open = true;
    if (focus && byId(focus)) byId(focus).focus({ preventScroll: true });
    return true;
  }

  function renewCase(news, live, toEnd) {
    const scroll = byId("scroll");
    const wide = getComputedStyle(scroll).overflowY !== "visible";
    const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
    const before = document.querySelectorAll("#conversation .message").length;
    for (const part of news.querySelectorAll("[data-part]")) {
      replace(byId(part.dataset.part), part.innerHTML);
    }
    const more = document.querySelectorAll("#conversation .message").length > before;
    if (wide && (toEnd || atEnd)) scroll.scrollTop = scroll.scrollHeight;
    else if (wide && more) byId("below").hidden = false;
    const state = live.dataset.state;
    if (page.dataset.state !== state) {
      page.dataset.state = state;
      for (const part of document.querySelectorAll("[data-only]")) {
        part.hidden = !part.dataset.only.split(" ").includes(state);
      }
      if (state === "mine") byId("reply").focus();
    }
  }

  const plainTitle = document.title.replace(/^\(\d+\) /, "");
  let known = null;

  function count(waiting, urgent, first) {
    document.title = waiting ? `(${waiting}) ${plainTitle}` : plainTitle;
    const badge = byId("nav-waiting");
    if (badge) {
      badge.textContent = waiting;
      badge.hidden = !waiting;
      badge.classList.toggle("urgent", urgent);
      badge.setAttribute("aria-label", `${waiting} ${words.waitingTitle}`);
    }
    if (known && (waiting > known.waiting || (urgent && !known.urgent)
        || (first && known.first && first !== known.first && waiting >= known.waiting))) chime(urgent);
    known = { waiting, urgent, first };
  }

  // -- the stream ----------------------------------------------------------------------------------

  let source = null;

  function listen() {
    if (source) return;
    source = new EventSource(page.dataset.stream);
    source.addEventListener("look", () => look());
    source.addEventListener("viewers", (event) => viewers(JSON.parse(event.data)));
    source.addEventListener("gone", signedOut);
    source.addEventListener("open", () => line(true));
    source.addEventListener("error", () => {
      line(false);
      if (source && source.readyState === EventSource.CLOSED) {  // refused, e.g. by a restart
        source = null;
        setTimeout(() => { look(); if (!document.hidden || !caseId) listen(); }, 3000);
      }
    });
  }

  function hush() {
    if (source) source.close();
    source = null;
  }

  function line(on) {
    const place = byId("line");
    if (!place) return;
    place.textContent = on ? place.dataset.on : place.dataset.off;
    place.classList.toggle("off", !on);
    place.classList.toggle("on", on);
  }

  function signedOut() {
    hush();
    if (!caseId) { location.reload(); return; }
    complain(words.gone);
  }

  function viewers(names) {
    const place = byId("viewers");
    const sentence = names.length > 1 ? words.viewers : words.viewer;
    place.hidden = !names.length;
    place.textContent = sentence.replace("{name}", names.join(", "));
  }

  // -- a gentle sound, if wished -------------------------------------------------------------------

  let audio = null;

  function chime(urgent) {
    const wish = byId("sound");
    if (!wish || !wish.checked) return;
    audio = audio || new AudioContext();
    const start = audio.currentTime;
    (urgent ? [659, 880, 659] : [523, 659]).forEach((pitch, step) => {
      const tone = audio.createOscillator();
      const loudness = audio.createGain();
      tone.frequency.value = pitch;
      loudness.gain.setValueAtTime(0, start + step * 0.18);
      loudness.gain.linearRampToValueAtTime(0.08, start + step * 0.18 + 0.03);
      loudness.gain.exponentialRampToValueAtTime(0.0001, start + step * 0.18 + 0.6);
      tone.connect(loudness).connect(audio.destination);
      tone.start(start + step * 0.18);
      tone.stop(start + step * 0.18 + 0.7);
    });
  }

  function soundSwitch() {
    const wish = byId("sound");
    if (!wish) return;
    wish.closest("label").hidden = false;
    wish.checked = localStorage.getItem("desk.sound") === "on";
    wish.addEventListener("change", () => {
      localStorage.setItem("desk.sound", wish.checked ? "on" : "off");
      chime(false);
    });
  }

  // -- the keyboard in the queue -------------------------------------------------------------------

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, textarea, select")) return;
    const rows = [...document.querySelectorAll(".queue a")];
    const step = { j: 1, k: -1 }[event.key];
    if (!step || !rows.length) return;
    const here = rows.indexOf(document.activeElement);
    const next = here < 0 ? (step > 0 ? 0 : rows.length - 1) : here + step;
    rows[Math.max(0, Math.min(rows.length - 1, next))].focus();
  });

  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });

  // -- begin ---------------------------------------------------------------------------------------

  if (!page) return;
  if (caseId) {
    keepDrafts();
    const scroll = byId("scroll");
    const below = byId("below");
    scroll.scrollTop = scroll.scrollHeight;
    const last = byId("conversation").lastElementChild;
    if (last && getComputedStyle(scroll).overflowY === "visible") last.scrollIntoView({ block: "center" });
    below.textContent = words.newBelow;
    below.addEventListener("click", () => { scroll.scrollTop = scroll.scrollHeight; });
    // A picture that arrives late must not push the last words out of sight.
    byId("conversation").addEventListener("load", () => {
      if (below.hidden) scroll.scrollTop = scroll.scrollHeight;
    }, true);
    scroll.addEventListener("scroll", () => {
      if (scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80) below.hidden = true;
    });
    const closing = byId("closing");
    closing.addEventListener("toggle", () => {
      if (closing.open) closing.scrollIntoView({ block: "nearest" });
    });
    // A browser opens few lines to one place: hidden case pages give theirs up.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) hush();
      else listen();
    });
  }
  soundSwitch();
  listen();
})();
