/* The web chat page. For Chrome 49 and later (ES2015 without modules): no library, no async.

   What the worker writes goes into an outbox in localStorage first and leaves it only when the desk
   has accepted it: a reload, a lost connection or a second tab neither loses nor doubles it.
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
const growing = (tries) => Math.min(30, Math.pow(2, tries)) * (900 + Math.random() * 200); // ms

let language = settings.language;
let messages = []; // {key, id (0: not known yet), seq, author, text, at, language, buttons, accepted …}
let cursor = 0; // id of the last message the stream has brought
let replayed = false; // the history has been read
let held = navigator.onLine === false; // the line is down: own messages wait
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

const build = (m) => {
  m.node = make('div', null, 'message ' + m.author + (replayed || !m.id ? ' new' : ''));
  m.label = make('div', m.node, 'author');
  const bubble = make('div', m.node, 'bubble');
  const body = make('div', bubble, 'text');
  m.clock = make('time', bubble, 'time');
  if (m.language) body.lang = tag(m.language);
  if (m.author === 'worker') body.textContent = m.text;
  else link(body, m.text);
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
    marks.toggle('waiting', waits && held);
    marks.toggle('failed', Boolean(m.failed));
    if (m.failed) mark(m, 'failed');
    else if (waits) mark(m, held ? (m === pending[pending.length - 1] ? 'waiting' : '') : 'sending');
    else mark(m, i === messages.length - 1 ? 'sent' : '');
  });
  intro.hidden = messages.length > 0 || (load('token') && !replayed);
  offer();
};

// The line under an own message: its state, or a button to try again.
const mark = (m, kind) => {
  const words = kind && say(kind);
  if (m.words === words) return;
  m.words = words;
  while (m.node.children.length > 2) m.node.removeChild(m.node.lastChild);
  if (!kind) return;
  if (m.failed && m.error) make('div', m.node, 'reason').textContent = m.error;
  const line = make(m.failed ? 'button' : 'div', m.node, 'state');
  line.textContent = words;
  if (m.failed) line.onclick = () => again(m);
  if (kind !== 'sending') spoken.textContent = words;
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
    button.lang = tag(source.language);
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
    if (data.key) outbox().forEach((item) => { if (item.key === data.key) forget(item.name); });
    const known = find(data.id, data.key);
    const m = known || {
      key: data.key, seq: 0, text: String(data.text), language: data.language || '',
      author: ['worker', 'counsellor'].indexOf(data.author) < 0 ? 'bot' : data.author,
      buttons: Array.isArray(data.buttons) ? data.buttons : []
    };
    Object.assign(m, { id: data.id, at: data.at, accepted: true, failed: false });
    if (!known) added.push(build(m));
  });
  replayed = true;
  arrange();
  added = added.filter((m) => m.author !== 'worker');
  const last = added[added.length - 1];
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
const adopt = (item) => find(0, item.key) || build({
  key: item.key, id: 0, seq: item.seq, author: 'worker', text: item.text, at: item.at,
  failed: item.failed, error: item.error, buttons: []
});

const write = (text, choice) => {
  const waiting = outbox();
  const seq = Math.max(Date.now(), waiting.length && waiting[waiting.length - 1].seq + 1);
  const key = uuid();
  const item = { name: 'out.' + seq + '.' + key, key: key, seq: seq, text: text, choice: choice, at: new Date().toISOString() };
  keep(item);
  adopt(item);
  if (navigator.onLine === false) held = true;
  arrange();
  toEnd();
  scrolled();
  pump();
};

const again = (m) => {
  m.failed = false;
  outbox().forEach((item) => { if (item.key === m.key) keep(Object.assign(item, { failed: false })); });
  arrange();
  main.focus();
  pump();
};

// Calls `then` with {status (0: no answer), body, wait (seconds, asked for by the desk)}.
const request = (method, path, token, body, then) => {
  const call = new XMLHttpRequest();
  call.onloadend = () => then({
    status: call.status,
    body: parse(call.responseText),
    wait: Math.min(Number(call.status && call.getResponseHeader('Retry-After')) || 0, 600)
  });
  call.open(method, path);
  call.timeout = 25000;
  if (token) call.setRequestHeader('Authorization', 'Bearer ' + token);
  if (body) call.setRequestHeader('Content-Type', 'application/json');
  call.send(body && JSON.stringify(body));
};

// The desk does not know the token: drop it, unless another tab already has a new one.
const expire = (token) => {
  if (load('token') === token) save('token', '');
  cursor = 0;
};

let sending = false;
let sendTimer = 0;
let tries = 0;
let notBefore = 0; // time of the next try
let ordered = 0; // the same, asked for by the desk: hurry does not help

// Send the oldest message of the outbox; the next one only when this one has been accepted.
const pump = () => {
  const item = outbox().filter((one) => !one.failed)[0];
  if (sending || gone || !item) return;
  clearTimeout(sendTimer);
  const wait = Math.max(notBefore, ordered) - Date.now();
  if (wait > 0) {
    sendTimer = setTimeout(pump, wait);
    return;
  }
  sending = true;
  const late = () => {
    held = true;
    arrange();
    settle();
  };
  const slow = setTimeout(late, SLOW);
  const ended = (answer, token, done) => {
    clearTimeout(slow);
    sending = false;
    if (gone) return;
    if (answer.status === 401) expire(token);
    if (done) {
      tries = notBefore = 0;
    } else {
      notBefore = Date.now() + (answer.status === 401 && !tries ? 0 : growing(tries));
      ordered = Date.now() + answer.wait * 1000;
      tries += 1;
    }
    held = !done && (answer.wait > 10 || (answer.status !== 401 && answer.status !== 429));
    arrange();
    settle();
    pump();
  };
  const post = (token) => request('POST', '/chat/messages', token, { id: item.key, text: item.text, choice: item.choice }, (answer) => {
    const m = adopt(item);
    const taken = answer.status >= 200 && answer.status < 300 && typeof answer.body.id === 'number';
    const refused = [400, 413, 422].indexOf(answer.status) >= 0;
    if (taken) {
      forget(item.name);
      Object.assign(m, { id: answer.body.id, accepted: true });
    } else if (refused && !m.accepted) {
      m.failed = item.failed = true;
      m.error = item.error = answer.body.error;
      keep(item);
    }
    ended(answer, token, taken || refused);
  });
  const token = load('token');
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
    if (list.some(Boolean)) receive(list.map(parse));
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
  tries = lineTries = notBefore = 0;
  pump();
  if (lineTimer || Date.now() - heard > 20000) connect();
};

/* ---- The page -------------------------------------------------------------------------------- */

// The input grows to five lines; too long a text is said and not sent, never cut.
const measure = () => {
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
  $('send').disabled = over || !used;
  settle();
};

const submit = (event) => {
  event.preventDefault();
  measure();
  if ($('send').disabled) return;
  const text = input.value.trim();
  input.value = '';
  forget('draft');
  measure();
  write(text, '');
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
};

// Clear this phone (other tabs see it and leave too) and put a neutral page in this one's place.
const leave = () => {
  gone = true;
  hangUp();
  names().forEach(forget);
  input.value = '';
  app.hidden = shade.hidden = true;
  tell('left');
  window.location.replace('/chat/left');
};

const ask = (open) => {
  shade.hidden = !open;
  $(open ? 'stay' : 'leave').focus();
};

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
$('leave').addEventListener('click', () => ask(true));
$('stay').addEventListener('click', () => ask(false));
$('go').addEventListener('click', leave);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') {
    if (shade.hidden) tell('escape');
    else ask(false);
  } else if (event.key === 'Tab' && !shade.hidden) {
    event.preventDefault();
    $(document.activeElement === $('stay') ? 'go' : 'stay').focus();
  }
});
document.addEventListener('visibilitychange', looks);
window.addEventListener('online', wake);
window.addEventListener('offline', () => {
  held = true;
  arrange();
  settle();
});
window.addEventListener('pageshow', (event) => {
  if (event.persisted) connect();
});
[window, view].forEach((one) => { if (one) one.addEventListener('resize', fit); });
if (view) view.addEventListener('scroll', fit);

// What another tab did.
window.addEventListener('storage', (event) => {
  const name = ours(event.key);
  if (name === 'token') {
    if (event.newValue === null) leave();
    else connect();
  } else if (name === 'language' && texts[event.newValue]) {
    show(event.newValue);
  } else if (name.indexOf('out.') === 0) {
    const item = entry(name);
    const m = item.key ? adopt(item) : find(0, name.split('.')[2]);
    if (item.key) m.failed = item.failed;
    else if (m) m.accepted = true;
    arrange();
    settle();
    clearTimeout(sendTimer);
    sendTimer = setTimeout(pump, 5000); // that tab sends it, unless it is closed
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
outbox().forEach(adopt);
input.value = load('draft') || input.value;
show(texts[load('language')] ? load('language') : language);
setTimeout(() => { if (!messages.length) intro.hidden = false; }, 4000); // a token, but no line
connect();
pump();
if (!phone && !embedded) input.focus();
tell('ready');
