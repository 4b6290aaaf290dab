// One question to iso-ucan: a JSON document on standard input, its answer on standard output. Bytes are base64.
//
//   {"do": "verify", "cases": [{"invocation": B64, "proofs": [B64, ...]}, ...]}    proofs root first; an answer for each
//   {"do": "make", "seeds": {"issuer", "agent", "helper"}, "command", "resource", "digest", "args", "connection",
//    "expires_at"}
//
// A case that iso-ucan refuses is answered by {"error": message}; everything else that goes wrong ends the process.

import { readFileSync } from 'node:fs'
import { Delegation } from 'iso-ucan/delegation'
import { Invocation } from 'iso-ucan/invocation'
import { EdDSASigner } from 'iso-signatures/signers/eddsa.js'
import { verifier } from 'iso-signatures/verifiers/eddsa.js'
import { Resolver } from 'iso-signatures/verifiers/resolver.js'

const verifierResolver = new Resolver({ ...verifier })
// Not a Buffer: iso-ucan compares the constructors of what a policy and the arguments hold.
const bytes = (text) => Uint8Array.from(Buffer.from(text, 'base64'))
const text = (content) => Buffer.from(content).toString('base64')

async function verify({ cases }) {
  const answers = []
  for (const one of cases) {
    try {
      answers.push(await verifyOne(one))
    } catch (error) {
      if (!(error instanceof Error)) throw error
      answers.push({ error: error.message })
    }
  }
  return answers
}

async function verifyOne({ invocation, proofs }) {
  const delegations = new Map()
  for (const proof of proofs) {
    const delegation = await Delegation.from({ bytes: bytes(proof), verifierResolver })
    delegations.set(delegation.cid.toString(), delegation)
  }
  const verified = await Invocation.from({
    bytes: bytes(invocation),
    verifierResolver,
    resolveProof: async (cid) => {
      const found = delegations.get(cid.toString())
      if (!found) throw new Error(`no proof ${cid}`)
      return found
    },
  })
  const { payload } = verified
  return {
    invocation: verified.cid.toString(),
    proofs: verified.delegations.map((one) => one.cid.toString()),
    issuer: payload.iss,
    subject: payload.sub,
    command: payload.cmd,
    resource: payload.args.resource,
    arguments: payload.args.args,
    digest: text(payload.args.digest),
    expires_at: payload.exp,
  }
}

async function make(asked) {
  const [issuer, agent, helper] = await Promise.all(
    ['issuer', 'agent', 'helper'].map((name) => EdDSASigner.generate(bytes(asked.seeds[name])))
  )
  const digest = bytes(asked.digest)
  const root = await Delegation.create({
    iss: issuer,
    aud: agent.did,
    sub: issuer.did,
    cmd: asked.command,
    pol: [
      ['==', '.resource', asked.resource],
      ['==', '.digest', digest],
    ],
    exp: asked.expires_at,
  })
  const link = await Delegation.create({
    iss: agent,
    aud: helper.did,
    sub: issuer.did,
    cmd: asked.command,
    pol: [],
    exp: asked.expires_at,
  })
  const args = { resource: asked.resource, connection: asked.connection, args: asked.args, digest }
  const made = {}
  for (const [name, iss, prf] of [
    ['own', agent, [root]],
    ['handed', helper, [root, link]],
  ]) {
    const invocation = await Invocation.create({
      iss,
      sub: issuer.did,
      cmd: asked.command,
      args,
      prf,
      exp: asked.expires_at,
      verifierResolver,
    })
    made[name] = {
      invocation: text(invocation.bytes),
      cid: invocation.cid.toString(),
      proofs: prf.map((one) => text(one.bytes)),
      cids: prf.map((one) => one.cid.toString()),
    }
  }
  return made
}

const asked = JSON.parse(readFileSync(0, 'utf8'))
process.stdout.write(JSON.stringify(await { verify, make }[asked.do](asked)))
