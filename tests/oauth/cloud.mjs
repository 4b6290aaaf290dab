// The token endpoints of three clouds, for tests: they believe a token of ours only after the npm package jose has found
// our keys by discovery and checked it, as a cloud does. Google's also lets a service account be acted as. What they give
// is valid nowhere.
//
//   node cloud.mjs '{"issuer": "http://localhost:1234", "subject": "tenant:acme:connection:s3", "account": "agents@acme-prod.iam.gserviceaccount.com"}'
//
// Prints one line of JSON with its origin. GET /_seen: the claims of every token that came, and what was wrong with it.

import http from 'node:http';
import crypto from 'node:crypto';
import {createRemoteJWKSet, decodeJwt, jwtVerify} from 'jose';

const given = JSON.parse(process.argv[2]);
const seen = [];
const first = new Map();
const secret = () => crypto.randomBytes(20).toString('hex');

async function check(token, audience) {
  const answer = await fetch(`${given.issuer}/.well-known/openid-configuration`);
  const discovered = await answer.json();
  if (discovered.issuer !== given.issuer) throw new Error('the issuer names itself otherwise');
  const keys = createRemoteJWKSet(new URL(discovered.jwks_uri));
  const options = {issuer: given.issuer, audience, algorithms: ['RS256'], subject: given.subject, requiredClaims: ['exp', 'iat', 'jti']};
  return (await jwtVerify(token, keys, options)).payload;
}

async function aws(form) {
  await check(form.get('WebIdentityToken'), 'sts.amazonaws.com');
  return {AssumeRoleWithWebIdentityResponse: {AssumeRoleWithWebIdentityResult: {Credentials: {
    AccessKeyId: 'ASIA' + crypto.randomBytes(8).toString('hex').toUpperCase(), SecretAccessKey: secret(),
    SessionToken: secret(), Expiration: Date.now() / 1000 + (given.lives ?? 3600),
  }}}};
}

async function bearer(form) {
  const token = form.get('subject_token') ?? form.get('client_assertion');
  await check(token, form.get('audience') ?? 'api://AzureADTokenExchange');
  const made = secret();
  first.set(made, form.get('scope'));
  return {access_token: made, token_type: 'Bearer', expires_in: given.lives ?? 3600};
}

// Google's generateAccessToken: one use of a token of the exchange, for IAM alone; `account` is who may be acted as.
// Without an `account` nobody may; a number is answered as a status, and a list names several.
function impersonate(path, bearer, body) {
  const scope = first.get(bearer);
  first.delete(bearer);
  if (scope !== 'https://www.googleapis.com/auth/iam') throw refusal(401, 'UNAUTHENTICATED');
  if (typeof given.account === 'number') throw refusal(given.account, 'UNAVAILABLE');
  const paths = [given.account ?? []].flat().map((account) => `/v1/projects/-/serviceAccounts/${account}:generateAccessToken`);
  if (!paths.includes(path)) throw refusal(403, 'PERMISSION_DENIED');
  if (!(body.scope?.length > 0) || !/^[0-9]+s$/.test(body.lifetime) || parseInt(body.lifetime) > 3600) throw refusal(400, 'INVALID_ARGUMENT');
  const lives = given.lives ?? parseInt(body.lifetime);
  return {accessToken: secret(), expireTime: new Date(Date.now() + lives * 1000).toISOString()};
}

const refusal = (status, code) => Object.assign(new Error(code), {status, answer: {error: {code: status, status: code, message: 'no'}}});

const server = http.createServer(async (request, response) => {
  if (request.url === '/_seen') return response.end(JSON.stringify(seen));
  let text = '';
  for await (const part of request) text += part;
  if (request.url.endsWith(':generateAccessToken')) {
    const [bearer, body] = [(request.headers.authorization ?? '').replace('Bearer ', ''), JSON.parse(text)];
    const entry = {path: request.url, bearer, body, type: request.headers['content-type'], wrong: ''};
    seen.push(entry);
    response.setHeader('content-type', 'application/json');
    try {
      response.end(JSON.stringify(impersonate(request.url, bearer, body)));
    } catch (error) {
      entry.wrong = error.message;
      response.statusCode = error.status;
      response.end(JSON.stringify(error.answer));
    }
    return;
  }
  const form = new URLSearchParams(text);
  const token = form.get('WebIdentityToken') ?? form.get('subject_token') ?? form.get('client_assertion') ?? '';
  const entry = {path: request.url, form: Object.fromEntries([...form].filter(([name]) => !/token|assertion/i.test(name))), wrong: ''};
  seen.push(entry);
  await new Promise((resume) => setTimeout(resume, given.delay ?? 0));
  response.setHeader('content-type', 'application/json');
  try {
    entry.claims = decodeJwt(token);
    response.end(JSON.stringify(await (form.has('Action') ? aws(form) : bearer(form))));
  } catch (error) {
    entry.wrong = error.message;
    response.statusCode = 400;
    response.end(JSON.stringify(form.has('Action') ? {Error: {Code: 'InvalidIdentityToken'}} : {error: 'invalid_grant'}));
  }
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({origin: `http://127.0.0.1:${server.address().port}`})));
process.on('SIGTERM', () => process.exit(0));
