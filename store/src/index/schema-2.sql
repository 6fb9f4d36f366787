-- Format 2: equal files of different layers share their blocks (see layers::share).

-- Of disk_size, bytes that share another layer's blocks.
ALTER TABLE layers ADD COLUMN cloned_size INTEGER NOT NULL DEFAULT 0;

-- What files look like, where the file system can share blocks.
CREATE TABLE files (
    sample  TEXT NOT NULL,   -- a hash over size, first and last block
    diff_id TEXT NOT NULL,
    path    BLOB NOT NULL,   -- in the layer's tree
    PRIMARY KEY (sample, diff_id, path)
) WITHOUT ROWID;
CREATE INDEX files_by_layer ON files (diff_id);
