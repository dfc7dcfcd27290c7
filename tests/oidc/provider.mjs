// A real OpenID provider for the tests: the npm package `oidc-provider`, on a port of this machine.
//
//   PORT=9000 KEYS=keys.json LOG=requests.log node provider.mjs
//
// KEYS is a file with its private keys; where there is none, new ones are made. LOG gets a line for every request, once it was
// answered. The client `app` gets tokens for itself: for the resource `urn:shop` signed ones (JWT), else opaque ones. The client
// `gateway` may ask about the latter.
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { Provider } from 'oidc-provider';

const { PORT, KEYS, LOG, TTL = '600' } = process.env;
const issuer = `http://127.0.0.1:${PORT}`;

function newKeys() {
  const key = (pair, extra) => ({ ...pair.privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', ...extra });
  return {
    keys: [
      key(generateKeyPairSync('ec', { namedCurve: 'P-256' }), { alg: 'ES256' }),
      key(generateKeyPairSync('rsa', { modulusLength: 2048 }), { alg: 'RS256' }),
    ],
  };
}

if (!existsSync(KEYS)) writeFileSync(KEYS, JSON.stringify(newKeys()));
const scopes = 'catalog:read orders';

const provider = new Provider(issuer, {
  jwks: JSON.parse(readFileSync(KEYS, 'utf8')),
  scopes: scopes.split(' '),
  clients: [
    // The secret has characters that a form escapes: both sides must do it alike.
    { client_id: 'app', client_secret: 'app-s3cret', grant_types: ['client_credentials'], redirect_uris: [], response_types: [] },
    {
      client_id: 'gateway', client_secret: 'gate:way&s3cret+%', grant_types: [], redirect_uris: [], response_types: [],
      introspection_endpoint_auth_method: 'client_secret_basic',
    },
    {
      client_id: 'gateway-post', client_secret: 'gate:way&s3cret+%', grant_types: [], redirect_uris: [], response_types: [],
      token_endpoint_auth_method: 'client_secret_post',
    },
  ],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    introspection: { enabled: true, allowedPolicy: () => true },
    revocation: { enabled: true, allowedPolicy: () => true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: (ctx) => ({
        scope: scopes,
        audience: 'shop',
        accessTokenFormat: 'jwt',
        accessTokenTTL: Number(TTL),
        jwt: { sign: { alg: ctx.oidc.body.alg ?? 'ES256' } },
      }),
    },
  },
  extraParams: ['alg'],
  extraTokenClaims: () => ({ tenant: 'north', realm_access: { roles: ['buyer'] } }),
  ttl: { ClientCredentials: Number(TTL) },
});
provider.use(async (ctx, next) => {
  await next();
  appendFileSync(LOG, `${ctx.method} ${ctx.path} ${ctx.status}\n`);
});
provider.on('server_error', (ctx, error) => console.error(error));
provider.listen(Number(PORT), '127.0.0.1', () => console.log('ready'));
