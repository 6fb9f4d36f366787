-- Format 1. Digests are text (`sha256:<hex>`). `sequence` orders rows where a clock could lie.

CREATE TABLE images (
    id       TEXT PRIMARY KEY,   -- the digest of the config
    config   BLOB NOT NULL,      -- the config's exact bytes: `run` needs them, and no second file
    manifest TEXT,               -- a blob, when the image came with a manifest
    created  INTEGER NOT NULL,   -- seconds since 1970, when this store first saw it
    size     INTEGER NOT NULL,   -- of the uncompressed layers
    sequence INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE names (
    reference TEXT PRIMARY KEY,
    image_id  TEXT NOT NULL,
    sequence  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX names_by_image ON names (image_id);

CREATE TABLE image_layers (
    image_id TEXT NOT NULL,
    position INTEGER NOT NULL,   -- 0 is the bottom
    diff_id  TEXT NOT NULL,
    PRIMARY KEY (image_id, position)
) WITHOUT ROWID;
CREATE INDEX image_layers_by_layer ON image_layers (diff_id);

CREATE TABLE layers (
    diff_id     TEXT PRIMARY KEY,
    tar_size    INTEGER NOT NULL,
    disk_size   INTEGER NOT NULL,
    entry_count INTEGER NOT NULL,
    synced      INTEGER NOT NULL,  -- 0: trusted only within the boot that wrote it
    boot_id     TEXT NOT NULL,
    gaps        INTEGER NOT NULL,  -- bits: see archive::unpack::Gaps
    sequence    INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX layers_unsynced ON layers (diff_id) WHERE synced = 0;

CREATE TABLE blobs (
    digest     TEXT PRIMARY KEY,
    size       INTEGER NOT NULL,
    media_type TEXT,
    diff_id    TEXT,               -- for a packed layer: what it unpacks to
    sequence   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX blobs_by_layer ON blobs (diff_id) WHERE diff_id IS NOT NULL;

CREATE TABLE cache (
    key        TEXT PRIMARY KEY,
    layer      TEXT,
    components TEXT NOT NULL,
    place      TEXT NOT NULL,
    seconds    REAL NOT NULL,
    created    INTEGER NOT NULL,
    used       INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX cache_by_layer ON cache (layer) WHERE layer IS NOT NULL;
CREATE INDEX cache_by_place ON cache (place);

CREATE TABLE context_memory (
    context TEXT PRIMARY KEY,
    memory  BLOB NOT NULL,
    used    INTEGER NOT NULL
) WITHOUT ROWID;

-- Blobs in flight: kept while the lease lives, whether or not an image points at them yet.
CREATE TABLE pins (
    lease  TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (lease, digest)
) WITHOUT ROWID;

CREATE TABLE containers (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    record   TEXT NOT NULL,
    image_id TEXT,
    state    TEXT NOT NULL,
    created  INTEGER NOT NULL,
    sequence INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX containers_by_image ON containers (image_id) WHERE image_id IS NOT NULL;

CREATE TABLE volumes (
    name    TEXT PRIMARY KEY,
    record  TEXT NOT NULL,
    created INTEGER NOT NULL
) WITHOUT ROWID;
