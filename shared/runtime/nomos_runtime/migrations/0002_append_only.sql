-- Events are never changed and never removed, whatever transaction asks: only the mark "published" is ever set.
-- A wall against mistakes in the service's own code. The owner of the table can take it down; the log tells then.

CREATE FUNCTION events_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF (NEW.n, NEW.tenant, NEW.stream, NEW.version, NEW.id, NEW.type, NEW.envelope, NEW.at)
            IS NOT DISTINCT FROM (OLD.n, OLD.tenant, OLD.stream, OLD.version, OLD.id, OLD.type, OLD.envelope, OLD.at)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'events are never changed' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER events_stay BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION events_stay();
CREATE TRIGGER events_stay_all BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION events_stay();
