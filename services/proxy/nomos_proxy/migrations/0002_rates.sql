-- Rates that are too slow to be divided among the proxies: for each key the moment at which its allowance is full again,
-- by this server's clock. A row whose moment is over says nothing and is deleted.

CREATE TABLE rates (
    tenant  text        NOT NULL,
    key     text        NOT NULL,                 -- what is counted: agent, connection or action
    full_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
ALTER TABLE rates ENABLE ROW LEVEL SECURITY;
ALTER TABLE rates FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON rates
    USING (tenant = current_setting('nomos.tenant', true))
    WITH CHECK (tenant = current_setting('nomos.tenant', true));
