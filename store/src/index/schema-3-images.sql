-- Format 3: images are listed without their configs, whose bytes fill most of the table's pages.

-- What the config says of its age; null when it says nothing that can be read.
ALTER TABLE images ADD COLUMN config_created TEXT;
UPDATE images SET config_created =
    CASE WHEN json_valid(CAST(config AS TEXT)) THEN json_extract(CAST(config AS TEXT), '$.created') END;

-- Holds all that a list shows.
CREATE INDEX images_listed ON images (sequence, id, manifest, size, config_created);
