"""The head of a connector's file, for tests that are about what follows it."""

HEAD = """\
connector: demo
title: Demo
scheme: https
host: api.demo.example
port: 443
auth: bearer
resource_types:
  thing: {cedar: "Demo::Thing", fields: {thing: "[a-z]+"}}
"""
