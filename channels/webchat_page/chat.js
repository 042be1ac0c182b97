/* The web chat page. For Chrome 49 and later (ES2015 without modules): no library, no async.

   What the worker writes goes into an outbox in localStorage first and leaves it only when the desk
   has accepted it: a reload, a lost connection or a second tab neither loses nor doubles it. The
   bytes of a file wait in IndexedDB, and each file is a message of its own, so words never wait for it.
   What the desk says comes by a stream (server-sent events read with fetch), else by polling. */
'use strict';

const $ = (id) => document.getElementById(id);
const parse = (text) => { try { return JSON.parse(text) || {}; } catch (error) { return {}; } };
const [texts, languages, settings] = ['texts', 'languages', 'settings'].map((id) => parse($(id).textContent));
const [app, main, log, intro, replies, input, picker, shade, spoken] =
  ['app', 'scroll', 'log', 'intro', 'replies', 'input', 'language', 'shade', 'status'].map($);
const embedded = window.parent !== window;
const phone = window.matchMedia('(pointer: coarse)').matches;
const QUIET = 40000; // ms without a byte: the stream is dead (the desk pings every 15 s)
const SLOW = 10000; // ms without an answer: tell the worker that the message waits
const STUCK = 60000; // ms in which nothing of a file went out: try again
const FILES = 10; // at a time
const EDGE = 1600; // pixels: the longer edge of a photo that is sent
const growing = (tries) => Math.min(30, Math.pow(2, tries)) * (900 + Math.random() * 200); // ms

let language = settings.language;
let messages = []; // {key, id (0: not known yet), seq, author, text, files, at, language, buttons, accepted …}
let staged = []; // files that were chosen and go with the next press on "send": {file, ready, node}
let cursor = 0; // id of the last message the stream has brought
let replayed = false; // the history has been read
let near = true; // the end of the conversation is on the screen
let below = 0; // new ones below the screen
let unread = 0; // new ones while nobody looked
let looked = true; // inside another page: the frame is open
let gone = false; // the worker has left: nothing may be kept any more

const visible = () => !document.hidden && looked;
const tell = (what, value) => {
  if (embedded) window.parent.postMessage({ deskChat: what, value: value }, '*');
};

/* ---- What stays on the phone; in memory where localStorage is shut (some frames) or full ------- */

const PREFIX = 'chat.';
const memory = new Map();
let disk = null;
try { disk = window.localStorage; } catch (error) { /* shut */ }

const load = (name) => {
  if (memory.has(name)) return memory.get(name);
  return (disk && disk.getItem(PREFIX + name)) || '';
};
const forget = (name) => {
  memory.delete(name);
  if (disk) disk.removeItem(PREFIX + name);
};
const save = (name, value) => {
  if (gone) return;
  memory.delete(name);
  try { disk.setItem(PREFIX + name, value); } catch (error) { memory.set(name, value); }
};
const ours = (key) => (key && key.indexOf(PREFIX) === 0 ? key.slice(PREFIX.length) : '');
const names = () => Object.keys(disk || {}).map(ours).concat(Array.from(memory.keys())).filter(Boolean).sort();

// One entry per message, so that two tabs never write over each other; its name gives the order.
const entry = (name) => Object.assign(parse(load(name)), { name: name });
const outbox = () => names().filter((name) => name.indexOf('out.') === 0).map(entry).filter((item) => item.key);
const keep = (item) => save(item.name, JSON.stringify(item));

// The bytes of files; in memory where IndexedDB is shut, and then the worker is asked not to close.
const blobs = new Map();
const depot = (mode, work, then) => {
  try {
    const opening = window.indexedDB.open('chat', 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore('files');
    opening.onerror = opening.onblocked = () => then(null, true);
    opening.onsuccess = () => {
      const db = opening.result;
      db.onversionchange = () => db.close(); // it is being deleted
      try {
        const step = db.transaction('files', mode);
        const asked = work(step.objectStore('files'));
        const end = (failed) => {
          db.close();
          then(failed ? null : asked.result, failed);
        };
        step.oncomplete = () => end(false);
        step.onabort = () => end(true);
      } catch (error) {
        db.close();
        then(null, true);
      }
    };
  } catch (error) {
    then(null, true);
  }
};
const putFile = (key, blob) => {
  if (gone) return;
  blobs.set(key, blob);
  depot('readwrite', (store) => store.put(blob, key), (_, failed) => { if (!failed) blobs.delete(key); });
};
const getFile = (key, then) => {
  if (blobs.has(key)) then(blobs.get(key));
  else depot('readonly', (store) => store.get(key), then);
};
const dropFile = (key) => {
  blobs.delete(key);
  depot('readwrite', (store) => store.delete(key), () => {});
};
const drop = (item) => {
  forget(item.name);
  if (item.file) dropFile(item.key);
};

/* ---- Language -------------------------------------------------------------------------------- */

const tag = (code) => ({ zh: 'zh-Hans', 'ja-easy': 'ja' }[code] || code);
const say = (name) => texts[language][name] || (name === 'close' ? '×' : '');
const each = (selector, work) => Array.from(document.querySelectorAll(selector)).forEach(work);

const show = (code) => {
  language = picker.value = code;
  document.documentElement.lang = tag(code);
  each('[data-text]', (node) => { node.textContent = say(node.dataset.text); });
  each('[data-label]', (node) => node.setAttribute('aria-label', say(node.dataset.label)));
  each('#choices button', (node) => node.setAttribute('aria-pressed', String(node.value === code)));
  input.placeholder = say('input');
  title();
  measure();
  arrange();
  tell('language', code);
};

const chosen = () => load('language') || /[?&]lang=/.test(window.location.search);

// The worker picks a language: it stays, and the desk hears of it when a conversation has begun.
const pick = (code) => {
  if (code === language) return;
  save('language', code);
  show(code);
  if (load('token') || messages.length) write(languages.filter((item) => item.code === code)[0].name, '/language ' + code);
};

/* ---- Messages on the page -------------------------------------------------------------------- */

const make = (name, parent, className) => {
  const node = document.createElement(name);
  node.className = className || '';
  if (parent) parent.appendChild(node);
  return node;
};
const find = (id, key) => messages.filter((m) => (id && m.id === id) || (key && m.key === key))[0];

// Burmese and Nepali need their own fonts and more room, whatever the language of the page is.
const script = (text) => (/[\u1000-\u109f]/.test(text) ? 'my' : /[\u0900-\u097f]/.test(text) ? 'ne' : '');

const size = (bytes) => (bytes < 1e6 ? Math.ceil(bytes / 1e3) + ' KB' : (bytes / 1e6).toFixed(1) + ' MB');
const urls = new Map(); // key → object URL of an own file
const urlOf = (key, blob) => {
  if (!urls.has(key)) urls.set(key, URL.createObjectURL(blob));
  return urls.get(key);
};

// The files of a message: pictures are shown, all else is a link that saves it.
const frame = (m) => {
  m.box.textContent = '';
  m.files.forEach((file) => {
    const source = urls.get(m.key) || file.url;
    const own = urls.has(m.key);
    if (source && (own || file.size < 3e6) && /^image\/(jpeg|png|gif|webp)$/.test(file.media_type)) {
      const button = make('button', m.box, 'picture');
      const image = make('img', button);
      button.type = 'button';
      image.loading = 'lazy';
      image.alt = file.name;
      image.onload = settle;
      image.onerror = () => { if (button.parentNode) m.box.replaceChild(chip(file, ''), button); };
      image.src = source;
      button.onclick = () => dialog('picture', file.name, source);
    } else {
      m.box.appendChild(chip(file, file.url));
    }
  });
};
const chip = (file, url) => {
  const node = make(url ? 'a' : 'span', null, 'file');
  const name = make('span', node, 'name');
  name.textContent = file.name;
  name.dir = 'auto';
  make('small', node).textContent = size(file.size);
  if (url) {
    node.href = url;
    node.download = file.name; // saved, not opened: nothing of it in the history of a shared phone
  }
  return node;
};

const build = (m) => {
  m.node = make('div', null, 'message ' + m.author + (replayed || !m.id ? ' new' : ''));
  m.label = make('div', m.node, 'author');
  const bubble = make('div', m.node, 'bubble');
  const body = make('div', bubble, 'text');
  m.box = make('div', bubble, 'files');
  m.clock = make('time', bubble, 'time');
  const tongue = tag(m.language) || script(m.text);
  if (tongue) body.lang = tongue;
  if (m.author === 'worker') body.textContent = m.text;
  else link(body, m.text);
  frame(m);
  messages.push(m);
  return m;
};

const moment = (date, options) => {
  try { return date.toLocaleString(tag(language), options); } catch (error) { return ''; }
};

// Bring the page into line with `messages`: order, labels, days, states, quick replies.
const arrange = () => {
  messages.sort((a, b) => (a.id || Infinity) - (b.id || Infinity) || a.seq - b.seq);
  const pending = messages.filter((m) => !m.accepted && !m.failed);
  let place = log.firstChild;
  let before = {};
  let day = new Date().toDateString();
  messages.forEach((m, i) => {
    if (m.node === place) place = place.nextSibling;
    else log.insertBefore(m.node, place);
    const date = new Date(m.at);
    const changed = !isNaN(date) && date.toDateString() !== day;
    if (changed) {
      day = date.toDateString();
      m.node.dataset.day = moment(date, { weekday: 'short', day: 'numeric', month: 'long' });
    } else {
      delete m.node.dataset.day;
    }
    if (!isNaN(date)) m.clock.textContent = moment(date, { hour: '2-digit', minute: '2-digit' });
    m.label.textContent = say({ worker: 'you', bot: 'desk' }[m.author] || m.author);
    const marks = m.node.classList;
    marks.toggle('first', before.author !== m.author || changed);
    before = m;
    if (m.author !== 'worker') return;
    const waits = pending.indexOf(m) >= 0;
    const lane = lanes[m.files.length ? 1 : 0];
    marks.toggle('waiting', waits && lane.held);
    marks.toggle('failed', Boolean(m.failed));
    if (m.failed) mark(m, 'failed');
    else if (waits) mark(m, lane.held ? (m === pending[pending.length - 1] ? 'waiting' : '') : 'sending');
    else mark(m, i === messages.length - 1 ? 'sent' : '');
  });
  $('move').hidden = !load('token');
  intro.hidden = messages.length > 0 || (load('token') && !replayed);
  offer();
};

// The line under an own message: its state, or a button to try again; a file can be taken back.
const mark = (m, kind) => {
  const loose = m.files.length && !m.accepted;
  const marked = [language, kind, m.error, loose].join();
  if (m.marked !== marked) {
    while (m.node.children.length > 2) m.node.removeChild(m.node.lastChild);
    const reason = m.failed && (texts.en[m.error] ? say(m.error).replace('{limit}', settings.file_limit) : m.error);
    if (reason) make('div', m.node, 'reason').textContent = reason;
    m.line = kind && m.error !== 'file_gone' && make(m.failed ? 'button' : 'div', m.node, 'state');
    if (m.failed && m.line) m.line.onclick = () => again(m);
    if (loose) {
      const button = make('button', m.node, 'state');
      button.textContent = say('remove');
      button.setAttribute('aria-label', say('remove') + ': ' + m.files[0].name);
      button.onclick = () => takeBack(m);
    }
    if (kind && kind !== 'sending' && kind !== m.kind) spoken.textContent = reason || say(kind);
    m.marked = marked;
    m.kind = kind;
  }
  if (m.line) m.line.textContent = say(kind) + (kind === 'sending' && m.percent ? ' ' + m.percent + ' %' : '');
};

// The buttons of the desk's last words stay until the worker or a counsellor has said something.
const offer = () => {
  let source = null;
  for (let i = messages.length - 1; i >= 0 && !source && messages[i].author === 'bot'; i -= 1) {
    if (messages[i].buttons.length) source = messages[i];
  }
  const id = source ? String(source.id) : '';
  if (replies.dataset.of === id) return;
  replies.dataset.of = id;
  replies.hidden = !source;
  replies.textContent = '';
  if (!source) return;
  source.buttons.forEach((item) => {
    const button = make('button', replies);
    button.textContent = item.label;
    button.lang = tag(source.language) || script(item.label);
    button.onclick = () => {
      const code = /^\/language (.+)/.exec(item.value);
      if (code && texts[code[1]]) {
        save('language', code[1]);
        show(code[1]);
      }
      write(item.label, item.value);
      (phone ? main : input).focus();
    };
  });
};

const end = () => main.scrollHeight - main.clientHeight;
const toEnd = () => { main.scrollTop = end(); };
const scrolled = () => {
  near = end() - main.scrollTop < 80;
  if (near) below = 0;
  $('down').hidden = near || !messages.length;
  $('fresh').textContent = below || '';
  look();
};
const settle = () => { // after a change of height: stay at the end
  if (near && messages.length) toEnd();
  scrolled();
};
const title = () => {
  document.title = unread ? '(' + unread + ') ' + say('new_messages') : say('title');
  tell('unread', unread);
};

// What the stream brought. A known key replaces the worker's local copy.
const receive = (list) => {
  const wasNear = near;
  const first = !replayed;
  let added = [];
  if (first) log.setAttribute('aria-live', 'off'); // do not read the history aloud
  list.forEach((data) => {
    if (typeof data.id !== 'number') return;
    cursor = Math.max(cursor, data.id);
    if (data.key) outbox().forEach((item) => { if (item.key === data.key) drop(item); });
    const known = find(data.id, data.key);
    const files = Array.isArray(data.files) ? data.files : [];
    if (!known && !data.text && !files.length) return; // it was taken back
    const m = known || {
      key: data.key, seq: 0, text: String(data.text), language: data.language || '',
      author: ['worker', 'counsellor'].indexOf(data.author) < 0 ? 'bot' : data.author,
      buttons: Array.isArray(data.buttons) ? data.buttons : [], files: files
    };
    Object.assign(m, { id: data.id, at: data.at, accepted: true, failed: false, error: '' });
    if (!known) {
      added.push(build(m));
    } else if (files.length) {
      m.files = files;
      if (!m.box.querySelector('.picture')) frame(m);
    }
  });
  replayed = true;
  arrange();
  added = added.filter((m) => m.author !== 'worker');
  const last = added[added.length - 1];
  if (last) dots(false);
  if (last && last.author === 'bot' && texts[last.language] && last.language !== language && !chosen()) {
    show(last.language); // follow the desk's language while nobody has chosen one
  }
  let top = added[0];
  if (first) {
    setTimeout(() => log.setAttribute('aria-live', 'polite'), 1500);
    top = messages[messages.map((m) => m.author).lastIndexOf('worker') + 1];
  } else if (!visible() && added.length) {
    unread += added.length;
    title();
  }
  // A new answer is shown from its beginning.
  if (wasNear) main.scrollTop = top ? Math.min(end(), top.node.offsetTop - main.offsetTop - 8) : end();
  else below += added.length;
  scrolled();
};

// What is only to be shown now.
const signal = (sign) => {
  if (sign === 'typing') dots(true);
  if (sign !== 'opened') return;
  if (!shade.hidden && $('dialog').className === 'device') dialog('');
  note('opened');
};

// Three dots: an answer is on its way, or so it was 20 seconds ago.
let dotsTimer = 0;
const dots = (on) => {
  clearTimeout(dotsTimer);
  if (on) dotsTimer = setTimeout(dots, 20000);
  if ($('typing').hidden === !on) return;
  $('typing').hidden = !on;
  if (on) spoken.textContent = say('typing');
  settle();
};

// A word of the page's own, until it is put away.
const note = (name) => {
  $('note').hidden = !name;
  $('words').textContent = name && say(name).replace('{limit}', settings.file_limit);
  settle();
};

// Tell the desk up to which message its words are really on the screen, to their end, for a second.
let reported = 0;
let reading = 0;
const seen = () => {
  const bottom = main.offsetTop + main.scrollTop + main.clientHeight + 24;
  const last = messages.filter((m) => m.id && m.author !== 'worker' && m.node.offsetTop + m.node.offsetHeight <= bottom).pop();
  return last && last.id > reported && visible() && !gone ? last.id : 0;
};
const look = () => {
  const id = reading ? 0 : seen();
  if (!id) return;
  reading = setTimeout(() => {
    reading = 0;
    const token = load('token');
    const now = Math.min(id, seen());
    if (now && token) {
      request('POST', '/chat/read', token, { id: now }, (answer) => {
        if (answer.status === 204) reported = Math.max(reported, now);
        if (answer.status === 204 || now < id) look();
      });
    } else if (token) {
      look();
    }
  }, 1000);
};

/* ---- Links in the desk's words: https addresses and telephone numbers ------------------------- */

const HYPHEN = '[\\-\\u2010-\\u2013\\u2212\\uff0d]';
const LINKS = new RegExp('https://[\\w\\-.~:/?#\\[\\]@!$&\'()*+,;=%]+' +
  '|[#＃+]?[0-9０-９]+(?:' + HYPHEN + '[0-9０-９]+)*', 'g');
// "119 yen", "110 hours", "art. 119", "第119条", "23, 104, 119" are no telephone numbers.
const NOT_BEFORE = /([\w０-９#第〒]|[¥￥$€£₱]\s?|\d[.,:/・、]\s?|(art[a-z]{0,5}\.?|pasal|điều|sec[a-z]*\.?|jpy|yen|rp|php|usd|धारा|दफा|ပုဒ်မ)\s?)$/i;
const IN_LIST = /[0-9０-９]\s?([,、・･/&]|and|or|e|y|dan|và|at)\s?$/;
const NOT_AFTER = new RegExp('^([\\w%％]|[.,:/][0-9]|\\s?' + HYPHEN + '\\s?[0-9]|\\s?(' +
  '円|万|千|億|日(?!本)|時|时|小时|分|人|名|年|月|天|回|件|条|元|' +
  '(yen|yenes|ienes|jpy|pesos?|dollars?|rupiah|ribu|juta|đồng|yên|triệu|percent|hours?|h|min[a-z]*|days?|weeks?|' +
  'months?|years?|people|persons?|workers?|horas?|d[ií]as?|meses|a[nñ]os?|pessoas?|personas?|giờ|tiếng|phút|ngày|' +
  'tháng|năm|người|jam|hari|bulan|tahun|orang|oras|araw|buwan|taon|tao)(?![a-zà-ỹ])|(နာရီ|မိနစ်|ရက်|ယောက်|ယန်း|' +
  'ရာခိုင်|घण्टा|मिनेट|दिन|महिना|वर्ष|जना|येन|रुपैयाँ|प्रतिशत)(?![\\u093a-\\u094f\\u102b-\\u103e])))', 'i');

// The number to dial for what may be a telephone number, or ''. `follows`: comes after another one.
const dial = (shown, before, after, follows) => {
  const plain = shown.replace(/[０-９＃]/g, (c) => String.fromCharCode(c.charCodeAt(0) - 0xfee0))
    .replace(new RegExp(HYPHEN, 'g'), '-');
  const digits = plain.replace(/-/g, '');
  if (/[\w.]$/.test(before) || /^(\w|[.,:/][0-9])/.test(after)) return '';
  if (/^#[789]\d{3}$/.test(plain)) return digits.replace('#', '%23');
  if (/^(\+81[1-9]\d{8,9}|0120\d{6}|0570\d{6}|0800\d{7}|0[5-9]0\d{8})$/.test(digits)) return digits;
  if (/^0\d*-/.test(plain) && /^\d{10,11}$/.test(digits)) return digits;
  if (!/^(11[089]|171|18[89])$/.test(plain) || NOT_BEFORE.test(before) || NOT_AFTER.test(after)) return '';
  return IN_LIST.test(before) && !follows ? '' : digits;
};

const link = (node, text) => {
  let done = 0;
  let dialled = '';
  const plain = (to) => node.appendChild(document.createTextNode(text.slice(done, to)));
  text.replace(LINKS, (found, at) => {
    const web = found[0] === 'h';
    if (web) found = found.replace(found.indexOf('(') < 0 ? /[).,:;!?'\]]+$/ : /[.,:;!?'\]]+$/, '');
    const stop = at + found.length;
    if (!web) dialled = dial(found, text.slice(Math.max(0, at - 16), at), text.slice(stop, stop + 16), dialled);
    if (web ? !/^https:\/\/[\w-]+(\.[\w-]+)+(:\d+)?([/?#]|$)/.test(found) : !dialled) return;
    plain(at);
    const anchor = make('a', node);
    anchor.textContent = found;
    anchor.href = web ? found : 'tel:' + dialled;
    if (web) {
      anchor.target = '_blank';
      anchor.rel = 'noopener noreferrer';
    }
    done = stop;
  });
  plain();
};

/* ---- Sending --------------------------------------------------------------------------------- */

const uuid = () => {
  const b = window.crypto.getRandomValues(new Uint8Array(16));
  b[6] = (b[6] & 15) | 64;
  b[8] = (b[8] & 63) | 128;
  return Array.from(b, (n) => (n + 256).toString(16).slice(1)).join('')
    .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
};

// Show a message of the outbox on the page.
const adopt = (item) => {
  const known = find(0, item.key);
  if (known) return known;
  const m = build({
    key: item.key, id: 0, seq: item.seq, author: 'worker', text: item.text, at: item.at,
    failed: item.failed, error: item.error, buttons: [], files: item.file ? [item.file] : []
  });
  if (item.file && !urls.has(item.key)) {
    getFile(item.key, (blob) => {
      if (!blob || gone) return;
      urlOf(item.key, blob);
      frame(m);
    });
  }
  return m;
};
// Of whoever has the conversation of this page; another one's goes out by the token it was written for.
const mine = (item) => !item.to || item.to === load('token');
const adoptAll = () => outbox().filter(mine).forEach(adopt);

const write = (text, choice, file) => {
  const waiting = outbox();
  const seq = Math.max(Date.now(), waiting.length && waiting[waiting.length - 1].seq + 1);
  const key = uuid();
  const item = { name: 'out.' + seq + '.' + key, key: key, seq: seq, text: text, choice: choice, at: new Date().toISOString(), to: load('token') };
  if (file) {
    item.file = { name: file.name, media_type: file.type, size: file.size };
    putFile(key, file);
    urlOf(key, file);
  }
  keep(item);
  adopt(item);
  if (navigator.onLine === false) hold(true);
  note('');
  arrange();
  toEnd();
  scrolled();
  pump();
};

const again = (m) => {
  m.failed = false;
  m.error = '';
  outbox().forEach((item) => { if (item.key === m.key) keep(Object.assign(item, { failed: false, error: '' })); });
  arrange();
  main.focus();
  pump();
};

const takeBack = (m) => {
  lanes.forEach((lane) => { if (lane.key === m.key && lane.call) lane.call.abort(); });
  outbox().forEach((item) => { if (item.key === m.key) drop(item); });
  messages = messages.filter((one) => one !== m);
  log.removeChild(m.node);
  arrange();
  settle();
  (phone ? main : input).focus();
};

// Calls `then` with {status (0: no answer), body, wait (seconds, asked for by the desk)}. A file goes
// as it is, with its name and key; `progress` hears the percentage.
const request = (method, path, token, body, then, file, progress) => {
  const call = new XMLHttpRequest();
  let stuck = 0;
  call.onloadend = () => {
    clearTimeout(stuck);
    then({
      status: call.status,
      body: parse(call.responseText),
      wait: Math.min(Number(call.status && call.getResponseHeader('Retry-After')) || 0, 600)
    });
  };
  call.open(method, path);
  if (token) call.setRequestHeader('Authorization', 'Bearer ' + token);
  if (file) {
    const moved = (event) => {
      clearTimeout(stuck);
      stuck = setTimeout(() => call.abort(), STUCK);
      if (event && event.total) progress(Math.floor(event.loaded / event.total * 100));
    };
    call.upload.onprogress = moved;
    call.setRequestHeader('Content-Type', 'application/octet-stream');
    call.setRequestHeader('X-Message-Id', file.key);
    call.setRequestHeader('X-File-Name', encodeURIComponent(file.name.replace(/[\ud800-\udfff]/g, '').slice(-100)));
    moved();
    call.send(body);
  } else {
    call.timeout = 25000;
    if (body) call.setRequestHeader('Content-Type', 'application/json');
    call.send(body && JSON.stringify(body));
  }
  return call;
};

// The desk does not know the token: drop it, unless another tab already has a new one.
const expire = (token) => {
  if (load('token') === token) {
    save('token', '');
    outbox().forEach((item) => { if (item.to === token) keep(Object.assign(item, { to: '' })); });
  }
  cursor = 0;
};

// Words and files go out side by side. `notBefore`: time of the next try; `ordered`: the same, asked
// for by the desk, so that hurry does not help; `held`: the line is down, own messages wait.
const lanes = [0, 1].map((files) => ({
  files: files, busy: false, timer: 0, tries: 0, notBefore: 0, ordered: 0, held: navigator.onLine === false, call: null, key: ''
}));
const hold = (yes) => lanes.forEach((lane) => { lane.held = yes; });
const pump = () => lanes.forEach(drain);
const REFUSED = { 400: 'file_refused', 413: 'file_big', 422: 'file_refused', 429: 'file_many', 410: 'file_gone' };

// Send the oldest message of the outbox; the next one only when this one has been accepted.
const drain = (lane) => {
  const item = outbox().filter((one) => !one.failed && Boolean(one.file) === Boolean(lane.files))[0];
  if (lane.busy || gone || !item) return;
  clearTimeout(lane.timer);
  const wait = Math.max(lane.notBefore, lane.ordered) - Date.now();
  if (wait > 0) {
    lane.timer = setTimeout(pump, wait);
    return;
  }
  lane.busy = true;
  lane.key = item.key;
  const late = () => {
    lane.held = true;
    arrange();
    settle();
  };
  const slow = item.file ? 0 : setTimeout(late, SLOW);
  const ended = (answer, token, done) => {
    clearTimeout(slow);
    lane.busy = false;
    lane.call = null;
    lane.key = '';
    if (gone) return;
    const now = entry(item.name);
    if (answer.status === 401 && now.key && !mine(now)) keep(Object.assign(now, { failed: true }));
    if (answer.status === 401) expire(token);
    if (done) {
      lane.tries = lane.notBefore = 0;
    } else {
      lane.notBefore = Date.now() + (answer.status === 401 && !lane.tries ? 0 : growing(lane.tries));
      lane.ordered = Date.now() + answer.wait * 1000;
      lane.tries += 1;
    }
    lane.held = !done && (answer.wait > 10 || (answer.status !== 401 && answer.status !== 429));
    arrange();
    settle();
    pump();
  };
  const settled = (answer, token) => {
    const kept = entry(item.name).key; // not taken back meanwhile
    const m = kept && mine(entry(item.name)) ? adopt(item) : {};
    const taken = answer.status >= 200 && answer.status < 300 && typeof answer.body.id === 'number';
    const refused = REFUSED[answer.status] && (item.file || (answer.status !== 429 && answer.status !== 410));
    if (taken) {
      drop(item);
      Object.assign(m, { id: m.id || answer.body.id, accepted: true });
    } else if (refused && kept && !m.accepted) {
      m.failed = item.failed = true;
      m.error = item.error = item.file ? REFUSED[answer.status] : answer.body.error;
      keep(item);
    }
    ended(answer, token, taken || refused || !kept);
  };
  const post = (token) => {
    if (!item.to && entry(item.name).key) keep(Object.assign(item, { to: token }));
    if (!item.file) {
      lane.call = request('POST', '/chat/messages', token, { id: item.key, text: item.text, choice: item.choice }, (answer) => settled(answer, token));
      return;
    }
    getFile(item.key, (blob, failed) => {
      if (gone || !entry(item.name).key || !blob) {
        settled({ status: failed ? 0 : 410, body: {}, wait: 0 }, token);
        return;
      }
      const progress = (percent) => {
        const m = find(0, item.key);
        if (!m) return;
        m.percent = percent;
        if (lane.held) {
          lane.held = false;
          arrange();
        }
        if (m.kind === 'sending') mark(m, 'sending');
      };
      lane.call = request('POST', '/chat/files', token, blob, (answer) => settled(answer, token), { key: item.key, name: item.file.name }, progress);
    });
  };
  const token = item.to || load('token');
  if (token) {
    post(token);
    return;
  }
  request('POST', '/chat/session', '', { language: language }, (answer) => {
    if (answer.status !== 201 || !answer.body.token || gone) {
      ended(answer, '', false);
      return;
    }
    if (!load('token')) save('token', answer.body.token); // another tab may have been quicker
    connect();
    post(load('token'));
  });
};

/* ---- Choosing files -------------------------------------------------------------------------- */

// A canvas tells the truth: not where a browser blurs it against being recognised.
const honest = () => {
  const canvas = document.createElement('canvas');
  const pen = canvas.getContext('2d');
  canvas.width = canvas.height = 2;
  pen.fillStyle = '#123456';
  pen.fillRect(0, 0, 2, 2);
  return String(Array.from(pen.getImageData(0, 0, 2, 2).data.slice(0, 3))) === '18,52,86';
};

// A photo becomes small enough for a weak line, and loses the place where it was taken. Only where
// the browser turns it upright by itself; else, and if anything fails, it is sent as it is.
const shrink = (file, then) => {
  const light = /^image\/(png|webp)$/.test(file.type) && file.size < 1e6;
  const turns = window.CSS && CSS.supports && CSS.supports('image-orientation', 'from-image');
  if (!/^image\/(jpeg|png|webp|hei[cf])$/.test(file.type) || light || !turns || !HTMLCanvasElement.prototype.toBlob) {
    then(file);
    return;
  }
  const source = URL.createObjectURL(file);
  const image = new Image();
  const done = (blob) => {
    URL.revokeObjectURL(source);
    if (!blob || (file.type !== 'image/jpeg' && blob.size > file.size)) {
      then(file);
      return;
    }
    blob.name = file.name.replace(/\.\w+$/, '') + '.jpg';
    then(blob);
  };
  image.onerror = () => done(null);
  image.onload = () => {
    try {
      const canvas = document.createElement('canvas');
      const part = Math.min(1, EDGE / Math.max(image.naturalWidth, image.naturalHeight));
      canvas.width = Math.max(1, Math.round(image.naturalWidth * part));
      canvas.height = Math.max(1, Math.round(image.naturalHeight * part));
      const pen = canvas.getContext('2d');
      pen.fillStyle = '#fff';
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      if (honest()) canvas.toBlob(done, 'image/jpeg', 0.85);
      else done(null);
    } catch (error) {
      done(null);
    }
  };
  image.src = source;
};

// Chosen files are shown over the input first: a wrong one can be taken away before it is sent.
const stage = (list) => {
  menu(false);
  note('');
  Array.from(list).slice(0, FILES - staged.length).forEach((file) => {
    const one = { file: file, ready: false, node: make('li', $('staged')) };
    const image = make('img', one.node);
    const about = chip({ name: file.name, size: file.size }, '');
    const button = make('button', one.node);
    one.node.appendChild(about);
    one.node.appendChild(button);
    image.alt = '';
    image.hidden = true;
    image.onload = () => { image.hidden = false; };
    button.type = 'button';
    button.textContent = '×';
    button.dataset.name = file.name;
    button.setAttribute('aria-label', say('remove') + ': ' + file.name);
    button.onclick = () => {
      unstage(one);
      (phone ? $('more') : input).focus();
    };
    staged.push(one);
    shrink(file, (small) => {
      if (staged.indexOf(one) < 0) return;
      one.ready = true;
      one.file = small;
      about.lastChild.textContent = size(small.size);
      if (!small.size || small.size > settings.file_limit * 1048576) {
        unstage(one);
        note(small.size ? 'file_big' : 'file_refused');
      } else if (/^image\//.test(small.type)) {
        one.url = image.src = URL.createObjectURL(small);
      }
      measure();
    });
  });
  measure();
};
const unstage = (one) => {
  staged = staged.filter((other) => other !== one);
  $('staged').removeChild(one.node);
  if (one.url) URL.revokeObjectURL(one.url);
  measure();
};
const menu = (open) => {
  $('menu').hidden = !open;
  $('more').setAttribute('aria-expanded', String(open));
  settle();
};

/* ---- Listening ------------------------------------------------------------------------------- */

const canStream = Boolean(window.fetch && window.TextDecoder && window.ReadableStream && 'body' in window.Response.prototype);
let lineTimer = 0; // set while no line is open
let lineTries = 0;
let heard = 0; // when the line last gave a sign of life
let silent = 0; // streams in a row that never said a word: something on the way swallows them,
let pollUntil = 0; // so poll until then
let hangUp = () => {};

const connect = () => {
  clearTimeout(lineTimer);
  lineTimer = 0;
  hangUp();
  heard = Date.now();
  const token = load('token');
  if (token && !gone) (canStream && heard > pollUntil ? listen : poll)(token);
};
const later = (wait) => { lineTimer = setTimeout(connect, wait); };

// A line that broke: try again after 1, 2, 4 … 30 s.
const broken = (status, wait, token) => {
  if (status === 401) {
    expire(token);
    replayed = true;
    arrange();
  }
  later(Math.max(growing(lineTries), wait * 1000));
  lineTries += 1;
};

const poll = (token) => {
  let over = false;
  hangUp = () => { over = true; };
  request('GET', '/chat/messages?after=' + cursor, token, null, (answer) => {
    if (over) return;
    const list = answer.body.messages;
    if (answer.status !== 200 || !Array.isArray(list)) {
      broken(answer.status, answer.wait, token);
      return;
    }
    lineTries = 0;
    receive(list);
    later(!visible() ? 20000 : list.length < 50 ? 3000 : 100);
  });
};

const listen = (token) => {
  const controller = window.AbortController && new AbortController();
  const decoder = new TextDecoder();
  let reader = null;
  let over = false;
  let spoke = false;
  let watch = 0;
  let rest = '';

  const stop = () => {
    over = true;
    clearTimeout(watch);
    if (controller) controller.abort();
    else if (reader) reader.cancel().catch(() => {});
  };
  hangUp = stop;
  const fail = (status, wait) => {
    if (over) return;
    stop();
    broken(status, wait || 0, token);
  };
  const alive = () => {
    clearTimeout(watch);
    heard = Date.now();
    watch = setTimeout(() => {
      silent = spoke ? 0 : silent + 1;
      if (silent > 1) pollUntil = Date.now() + 300000;
      fail(0);
    }, QUIET);
  };
  const next = () => reader.read().then((piece) => {
    if (over) return null;
    if (piece.done) return fail(0);
    spoke = true;
    lineTries = 0;
    alive();
    // Events end with an empty line; a CR at the end may be half a CRLF.
    const events = (rest + decoder.decode(piece.value, { stream: true })).replace(/\r\n|\r(?!$)/g, '\n').split('\n\n');
    rest = events.pop();
    const list = events.map((text) => text.split('\n').filter((line) => /^data:/.test(line)).map((line) => line.slice(5)).join('\n'));
    const read = list.map(parse);
    read.forEach((data) => signal(data.sign));
    if (read.some((data) => data.id)) receive(read);
    return next();
  });

  alive();
  const headers = { Authorization: 'Bearer ' + token, Accept: 'text/event-stream' };
  fetch('/chat/stream?after=' + cursor, { headers: headers, cache: 'no-store', signal: controller ? controller.signal : null })
    .then((response) => {
      if (response.body) reader = response.body.getReader();
      if (over) return stop();
      if (response.status === 200 && /^text\/event-stream/.test(response.headers.get('Content-Type'))) return next();
      return fail(response.status, Math.min(Number(response.headers.get('Retry-After')) || 0, 600));
    }).catch(() => fail(0));
};

// The network is back, or the worker looks at the page again.
const wake = () => {
  lineTries = 0;
  lanes.forEach((lane) => { lane.tries = lane.notBefore = 0; });
  pump();
  if (lineTimer || Date.now() - heard > 20000) connect();
};

/* ---- The page -------------------------------------------------------------------------------- */

// The input grows to five lines; too long a text is said and not sent, never cut.
const measure = () => {
  input.lang = script(input.value) || tag(language);
  input.style.height = 'auto';
  input.style.height = input.scrollHeight + 2 + 'px';
  const limit = settings.limit;
  const used = Array.from(input.value.trim()).length;
  const over = used > limit;
  const count = $('count');
  count.hidden = used < limit * 0.8;
  count.textContent = (over ? say('too_long').replace('{limit}', limit) + ' ' : '') + used + ' / ' + limit;
  count.className = over ? 'over' : '';
  if (over && input.getAttribute('aria-invalid') !== 'true') spoken.textContent = count.textContent;
  input.setAttribute('aria-invalid', String(over));
  $('staged').hidden = !staged.length;
  each('#staged button', (node) => node.setAttribute('aria-label', say('remove') + ': ' + node.dataset.name));
  $('send').disabled = over || (!used && !staged.length) || staged.some((one) => !one.ready);
  settle();
};

const submit = (event) => {
  event.preventDefault();
  measure();
  if ($('send').disabled) return;
  const text = input.value.trim();
  input.value = '';
  forget('draft');
  if (text) write(text, '');
  staged.slice().forEach((one) => {
    write('', '', one.file);
    unstage(one);
  });
  measure();
};

// The screen keyboard: where it covers the page instead of shrinking it (iOS), shrink the page.
const view = window.visualViewport;
const fit = () => {
  const covered = view && view.scale < 1.05 && window.innerHeight - view.height > 60;
  app.style.height = covered ? view.height + 'px' : '';
  app.style.top = covered ? view.offsetTop + 'px' : '';
  settle();
};

const looks = () => {
  if (!visible()) return;
  unread = 0;
  title();
  wake();
  look();
};

// Clear this phone (other tabs see it and leave too) and put a neutral page in this one's place.
const leave = () => {
  if (gone) return;
  gone = true;
  hangUp();
  lanes.forEach((lane) => { if (lane.call) lane.call.abort(); });
  names().forEach(forget);
  blobs.clear();
  urls.forEach((url) => URL.revokeObjectURL(url));
  staged.slice().forEach(unstage);
  log.textContent = input.value = '';
  app.hidden = shade.hidden = true;
  document.title = '-';
  let left = false;
  const away = () => {
    if (left) return;
    left = true;
    tell('left');
    window.location.replace('/chat/left');
  };
  setTimeout(away, 1500); // a tab that holds on to the files
  try {
    const clearing = window.indexedDB.deleteDatabase('chat');
    clearing.onsuccess = clearing.onerror = away;
  } catch (error) {
    away();
  }
};

// The window over the page: 'leave', 'device' (continue there), 'picture', or '' for none.
let opener = null;
const dialog = (kind, words, source) => {
  if (kind && shade.hidden) opener = document.activeElement;
  shade.hidden = !kind;
  $('dialog').className = kind;
  $('question').textContent = words || '';
  $('go').hidden = kind !== 'leave';
  $('device').hidden = kind !== 'device';
  $('picture').hidden = kind !== 'picture';
  $('code').removeAttribute('src');
  $('picture').removeAttribute('src');
  if (source) $('picture').src = source;
  $('code').hidden = true;
  $('address').value = '';
  $('address').hidden = $('copy').hidden = true;
  $('copy').textContent = say('copy');
  if (kind) $('stay').focus();
  else if (opener) opener.focus();
};

/* ---- Another phone --------------------------------------------------------------------------- */

const move = () => {
  menu(false);
  if (shade.hidden) $('more').focus();
  dialog('device', '…');
  const token = load('token');
  request('POST', '/chat/resume-link', token, { language: language }, (answer) => {
    if ($('device').hidden || shade.hidden || gone) return;
    if (answer.status !== 200) {
      $('question').textContent = say('no_line');
      if (answer.status === 401) expire(token);
      else setTimeout(() => { if (!shade.hidden && !$('device').hidden && !$('address').value) move(); }, 3000);
      return;
    }
    $('question').textContent = say('resume_hint');
    $('code').src = answer.body.qr;
    $('address').value = answer.body.url;
    $('code').hidden = $('address').hidden = $('copy').hidden = false;
  });
};

// This page goes on with another conversation.
const enter = (token) => {
  save('token', token);
  messages.forEach((m) => log.removeChild(m.node));
  messages = [];
  cursor = reported = below = 0;
  replayed = false;
  near = true;
  adoptAll();
  arrange();
  connect();
  pump();
};

const resume = (link, device, tried) => {
  request('POST', '/chat/resume', '', { token: link, device: device, language: language }, (answer) => {
    if (gone) return;
    if (answer.status === 200 && answer.body.token) {
      note('');
      enter(answer.body.token);
    } else if (answer.status >= 400 && answer.status < 429) {
      note('resume_expired');
    } else {
      note('no_line');
      setTimeout(() => resume(link, device, tried + 1), growing(tried));
    }
  });
};

// A link to this page: #resume=… opens a conversation, #link=… joins two. Its secret leaves the
// address, and so the history, at once.
const arrive = () => {
  const found = /^#(resume|link)=([\w.:~-]{4,200})$/.exec(window.location.hash);
  if (!found) return;
  window.history.replaceState(null, '', window.location.pathname + window.location.search);
  if (found[1] === 'resume') resume(found[2], uuid(), 0);
  else write(found[2], '/link ' + found[2]);
};

/* ---- What she touches ------------------------------------------------------------------------ */

$('form').addEventListener('submit', submit);
$('send').addEventListener('mousedown', (event) => event.preventDefault()); // the keyboard stays open
input.addEventListener('input', () => {
  save('draft', input.value);
  measure();
});
input.addEventListener('keydown', (event) => {
  const composing = event.isComposing || event.keyCode === 229;
  if (event.key === 'Enter' && !event.shiftKey && !composing && !phone) submit(event);
});
picker.addEventListener('change', () => pick(picker.value));
languages.forEach((item) => {
  const button = make('button', $('choices'));
  button.value = item.code;
  button.lang = tag(item.code);
  button.textContent = item.name;
  button.onclick = () => pick(item.code);
});
main.addEventListener('scroll', scrolled);
$('down').addEventListener('click', toEnd);
$('leave').addEventListener('click', () => dialog('leave', say('leave_confirm')));
$('stay').addEventListener('click', () => dialog(''));
shade.addEventListener('click', (event) => { if (event.target === shade) dialog(''); });
$('go').addEventListener('click', leave);
$('noted').addEventListener('click', () => {
  note('');
  (phone ? main : input).focus();
});
$('more').addEventListener('click', () => menu($('menu').hidden));
$('take').addEventListener('click', () => $('camera').click());
$('choose').addEventListener('click', () => $('file').click());
$('move').addEventListener('click', move);
$('take').hidden = !phone;
['camera', 'file'].map($).forEach((node) => node.addEventListener('change', () => {
  stage(node.files);
  node.value = ''; // the same file may be chosen again
}));
input.addEventListener('paste', (event) => {
  const list = event.clipboardData && event.clipboardData.files;
  if (!list || !list.length) return;
  event.preventDefault();
  stage(list);
});
$('copy').addEventListener('click', () => {
  $('address').select();
  if (document.execCommand('copy')) $('copy').textContent = spoken.textContent = say('copied');
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') {
    if (!shade.hidden) dialog('');
    else if (!$('menu').hidden) menu(false);
    else tell('escape');
  } else if (event.key === 'Tab' && !shade.hidden) {
    const stops = Array.from($('dialog').querySelectorAll('button, input')).filter((node) => node.offsetHeight);
    const at = stops.indexOf(document.activeElement) + (event.shiftKey ? -1 : 1);
    event.preventDefault();
    stops[(at + stops.length) % stops.length].focus();
  }
});
window.addEventListener('beforeunload', (event) => { // what only this page has would be lost
  if (!gone && blobs.size) event.returnValue = '';
});
document.addEventListener('visibilitychange', looks);
window.addEventListener('online', wake);
window.addEventListener('offline', () => {
  hold(true);
  arrange();
  settle();
});
window.addEventListener('pageshow', (event) => {
  if (gone) window.location.replace('/chat/left');
  else if (event.persisted) connect();
});
[window, view].forEach((one) => { if (one) one.addEventListener('resize', fit); });
if (view) view.addEventListener('scroll', fit);

// What another tab did.
window.addEventListener('storage', (event) => {
  const name = ours(event.key);
  if (name === 'token') {
    if (event.newValue === null) leave();
    else if (event.oldValue && event.newValue && event.oldValue !== event.newValue) enter(event.newValue);
    else connect();
  } else if (name === 'language' && texts[event.newValue]) {
    show(event.newValue);
  } else if (name.indexOf('out.') === 0) {
    const item = entry(name);
    if (!mine(item)) return;
    const m = item.key ? adopt(item) : find(0, name.split('.')[2]);
    if (item.key) m.failed = item.failed;
    else if (m && !m.id && m.files.length) takeBack(m); // or accepted: then the stream brings it
    else if (m) m.accepted = true;
    arrange();
    settle();
    const lane = lanes[item.file ? 1 : 0];
    clearTimeout(lane.timer);
    lane.timer = setTimeout(pump, item.file ? STUCK : 5000); // that tab sends it, unless it is closed
  }
});

// Inside another page (embed.js): is the frame open?
window.addEventListener('message', (event) => {
  if (event.source !== window.parent || !event.data || event.data.deskChat !== 'shown') return;
  looked = Boolean(event.data.value);
  looks();
  if (looked && !phone) input.focus();
});

if ($('late')) $('late').hidden = true;
adoptAll();
input.value = load('draft') || input.value;
show(texts[load('language')] ? load('language') : language);
setTimeout(() => { if (!messages.length) intro.hidden = false; }, 4000); // a token, but no line
connect();
arrive();
pump();
window.addEventListener('hashchange', arrive);
if (!phone && !embedded) input.focus();
tell('ready');
