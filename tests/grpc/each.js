// Plays calls one after the other, and prints what came of each in one line of JSON.
'use strict';

module.exports = async (call, text) => {
  setTimeout(() => { console.error('no end'); process.exit(1); }, 25000);
  const all = [];
  for (const wanted of JSON.parse(text)) all.push(await call(wanted));
  console.log(JSON.stringify(all));
  process.exit(0);
};
