-- Changes of the log's key, each with its proof: the record, and its receipt in the tree that both keys signed. A copy
-- of what chain and checkpoints hold, for the time when the chain has been rolled past the record. No tenant's data.
CREATE TABLE audit_keys (
    size   bigint PRIMARY KEY,
    record bytea  NOT NULL,
    proof  bytea  NOT NULL
);
