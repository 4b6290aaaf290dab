// An authorization server for tests: the npm package oidc-provider on loopback. Everybody who comes is signed in as the
// account that the environment names and grants what is asked for, so a flow takes no hand.
//
//   node provider.mjs '{"rotate": true, "lives": 3600, "clients": [...], "scopes": [...], "routes": {...}}'
//
// Prints one line of JSON with its issuer when it listens. Its paths are those of the provider that it stands for. Control, outside the protocol:
//   GET  /_seen              what reached the token and revocation endpoints: grant type, status, error
//   POST /_control {...}     lives: seconds of the next access tokens; account: who comes; scope: what is said to be granted;
//                            fault: none | deny | down | hang | cut; slow_ms; revocation: down | hang
//                            device: an interval that is said to devices; busy: so many of their questions get slow_down
//                            "cut" does what it is asked and closes without an answer, as a network does

import {Provider} from 'oidc-provider';
import http from 'node:http';

const given = JSON.parse(process.argv[2]);
const control = {lives: given.lives ?? 3600, fault: 'none', account: 'alice', slow_ms: 0};
const seen = [];

const server = http.createServer();
await new Promise((done) => server.listen(given.port ?? 0, '127.0.0.1', done));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: given.clients,
  cookies: {keys: ['for-tests-only']},
  claims: {openid: ['sub']},
  scopes: given.scopes,
  routes: given.routes,
  findAccount: (ctx, id) => ({accountId: id, claims: async () => ({sub: id})}),
  ttl: {DeviceCode: () => control.code_lives ?? 600, AccessToken: () => control.lives, RefreshToken: 86400, Grant: 86400, Session: 3600, Interaction: 3600, IdToken: 3600},
  rotateRefreshToken: () => given.rotate === true,
  issueRefreshToken: async () => given.refresh !== false,
  pkce: {required: () => true},
  features: {
    devInteractions: {enabled: false},
    pushedAuthorizationRequests: {enabled: true, requirePushedAuthorizationRequests: given.par === true},
    revocation: {enabled: true},
    introspection: {enabled: true},
    deviceFlow: {enabled: true},
  },
  interactions: {url: (ctx, interaction) => `/interaction/${interaction.uid}`},
});

provider.use(async (ctx, next) => {
  if (ctx.path.startsWith('/interaction/')) return interact(ctx);
  if (ctx.path === given.routes.revocation) {
    if (control.revocation === 'hang') await new Promise((done) => setTimeout(done, 3_600_000).unref());
    if (control.revocation === 'down') ctx.status = 503;
    else await next();
    seen.push({grant_type: 'revocation', status: ctx.status, error: ctx.body?.error ?? ''});
    return;
  }
  if (ctx.path === given.routes.device_authorization) {
    await next();
    seen.push({grant_type: 'device', status: ctx.status, error: ctx.body?.error ?? ''});
    if (control.device && ctx.body?.device_code) ctx.body = {...ctx.body, interval: control.device};
    return undefined;
  }
  if (ctx.path !== given.routes.token) return next();
  if (control.busy > 0) {
    control.busy -= 1;
    ctx.status = 400;
    ctx.body = {error: 'slow_down'};
    seen.push({grant_type: 'urn:ietf:params:oauth:grant-type:device_code', status: 400, error: 'slow_down'});
    return undefined;
  }
  if (control.fault === 'down') {
    ctx.status = 503;
    seen.push({grant_type: '', status: 503, error: 'down'});
    return;
  }
  if (control.slow_ms) await new Promise((done) => setTimeout(done, control.slow_ms));
  await next();
  const body = typeof ctx.body === 'object' ? ctx.body : {};
  if (control.scope && body.access_token) ctx.body = {...body, scope: control.scope};
  seen.push({grant_type: ctx.oidc?.params?.grant_type ?? '', status: ctx.status, error: body.error ?? ''});
  if (control.fault === 'cut') ctx.req.socket.destroy();
  if (control.fault === 'hang') await new Promise((done) => setTimeout(done, 3_600_000).unref());
});

async function interact(ctx) {
  const {prompt, params, session, grantId} = await provider.interactionDetails(ctx.req, ctx.res);
  let result;
  if (control.fault === 'deny') {
    result = {error: 'access_denied', error_description: 'the person said no'};
  } else if (prompt.name === 'login') {
    result = {login: {accountId: control.account}};
  } else {
    const grant = grantId ? await provider.Grant.find(grantId)
      : new provider.Grant({accountId: session.accountId, clientId: params.client_id});
    grant.addOIDCScope(params.scope);
    result = {consent: {grantId: await grant.save()}};
  }
  ctx.status = 303;
  ctx.redirect(await provider.interactionResult(ctx.req, ctx.res, result, {mergeWithLastSubmission: true}));
}

const answer = provider.callback();
server.on('request', (request, response) => {
  if (request.url === '/_seen') return response.end(JSON.stringify(seen));
  if (request.url === '/_control') {
    let text = '';
    request.on('data', (part) => { text += part; });
    request.on('end', () => { Object.assign(control, JSON.parse(text)); response.end('{}'); });
    return undefined;
  }
  return answer(request, response);
});
console.log(JSON.stringify({issuer}));
process.on('SIGTERM', () => process.exit(0));
