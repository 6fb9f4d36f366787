//! Images in and out through the front door: every form comes in whole, goes out unchanged, and
//! whatever is wrong with it leaves the store as it was.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Cursor, Read, Seek, Write};
use std::path::Path;

use serde_json::{Value, json};
use store::oci::platform::Platform;
use store::transfer::{
    Compression, Copied, Format, LoadOptions, Loaded, Packing, Repack, SaveOptions, Saved, Source, Target,
    TransferError, copy, load, save,
};
use store::{Digest, Store};

/// A store of its own.
struct Home {
    folder: tempfile::TempDir,
    store: Store,
}

impl Home {
    fn new() -> Self {
        // Hundreds of stores: in memory, where waiting for the disk costs nothing.
        let memory = Path::new("/dev/shm");
        let folder =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    fn load(&self, source: Source) -> Result<Vec<Loaded>, TransferError> {
        load(
            &self.store,
            source,
            &LoadOptions { platform: "linux/amd64".parse().unwrap(), only: None, names: None },
        )
    }

    /// What lies in the store: layers, blobs, half-made things, images with their names.
    fn content(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for folder in ["layers", "blobs/sha256", "staging", "scratch"] {
            for entry in std::fs::read_dir(self.store.root().join(folder)).unwrap() {
                found.insert(format!("{folder}/{}", entry.unwrap().file_name().display()));
            }
        }
        for image in self.store.images().list().unwrap() {
            let names: Vec<String> = image.names.iter().map(ToString::to_string).collect();
            found.insert(format!("{} {names:?}", image.id));
        }
        found
    }

    fn save(&self, names: &[&str], format: Format) -> Vec<u8> {
        self.save_as(names, SaveOptions { format, repack: Repack::Keep })
    }

    fn save_as(&self, names: &[&str], options: SaveOptions) -> Vec<u8> {
        let mut bytes = Vec::new();
        save(&self.store, &self.saved(names), options, Target::Archive(&mut bytes)).unwrap();
        bytes
    }

    fn saved(&self, names: &[&str]) -> Vec<Saved> {
        names
            .iter()
            .map(|name| {
                let image = self.store.images().find(name).unwrap().unwrap();
                let names = image.names.iter().filter(|known| known.to_string() == **name).cloned().collect();
                Saved { image, names }
            })
            .collect()
    }
}

/// The files of an image, by name; the order of a `Vec` is the order in the archive.
type Files = Vec<(String, Vec<u8>)>;

fn tar_of(files: &[(String, Vec<u8>)], links: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, target) in links {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, name, target).unwrap();
    }
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, &content[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

fn layer(name: &str, size_bytes: usize) -> Vec<u8> {
    let content: Vec<u8> = (0..size_bytes).map(|place| u8::try_from(place * 7 % 251).unwrap()).collect();
    tar_of(&[(name.to_owned(), content)], &[])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}

/// A config with whitespace and a field that nobody knows: it must come out byte for byte.
fn config(layers: &[&[u8]], more: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let value = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/a"], "Tty": false},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "x-unknown": more,
    });
    format!("  {}\n", serde_json::to_string_pretty(&value).unwrap()).into_bytes()
}

/// A docker-archive of one image.
fn docker(tags: &Value, layers: &[&[u8]], more: &str) -> Files {
    let config = config(layers, more);
    let name = format!("{}.json", hex(&config));
    let paths: Vec<String> = layers.iter().map(|layer| format!("{}/layer.tar", hex(layer))).collect();
    let listed = json!([{"Config": name, "RepoTags": tags, "Layers": paths}]);
    let mut files: Files = paths
        .iter()
        .cloned()
        .zip(layers.iter().map(|layer| layer.to_vec()))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect();
    files.push((name, config));
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&listed).unwrap()));
    files
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", hex(bytes)), bytes.to_vec())
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{}", hex(bytes)), "size": bytes.len()})
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An OCI layout of one image; returns its files and its manifest's bytes.
fn oci(name: Option<&str>, layers: &[(&[u8], Vec<u8>)], more: &str) -> (Files, Vec<u8>) {
    let plain: Vec<&[u8]> = layers.iter().map(|(plain, _)| *plain).collect();
    let config = config(&plain, more);
    let of_layer =
        |(_, packed): &(&[u8], Vec<u8>)| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", packed);
    let manifest = json!({
        "schemaVersion": 2, "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(of_layer).collect::<Vec<_>>(), "annotations": {"a": "b"}, "x-unknown": [1, 2],
    });
    let manifest = serde_json::to_vec_pretty(&manifest).unwrap();
    let mut entry = descriptor(MANIFEST, &manifest);
    if let Some(name) = name {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        (
            "index.json".to_owned(),
            serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]})).unwrap(),
        ),
    ];
    files.extend(layers.iter().map(|(_, packed)| blob(packed)));
    files.extend([blob(&config), blob(&manifest)]);
    (files, manifest)
}

fn in_file(bytes: &[u8]) -> Source {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    Source::File(file)
}

fn in_stream(bytes: &[u8]) -> Source {
    Source::Stream(Box::new(Cursor::new(bytes.to_vec())))
}

fn in_folder(files: &[(String, Vec<u8>)], folder: &Path) -> Source {
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    Source::Folder(folder.to_owned())
}

/// Every way in for the same files: as a file and as a stream, in order and backwards, compressed too.
fn every_way(files: &[(String, Vec<u8>)], links: &[(&str, &str)]) -> Vec<Source> {
    let forwards = tar_of(files, links);
    let backwards = tar_of(&files.iter().rev().cloned().collect::<Vec<_>>(), links);
    vec![
        in_file(&forwards),
        in_file(&backwards),
        in_stream(&forwards),
        in_stream(&backwards),
        in_file(&gzip(&forwards)),
        in_stream(&zstd::encode_all(&forwards[..], 1).unwrap()),
    ]
}

fn names(loaded: &[Loaded]) -> Vec<String> {
    loaded.iter().flat_map(|loaded| loaded.names.iter().map(|set| set.name.to_string())).collect()
}

#[test]
fn a_docker_archive_comes_in_by_every_way_and_goes_out_with_the_same_bytes() {
    let (one, two) = (layer("one", 100_000), layer("two", 10));
    let files =
        docker(&json!(["app:1", "docker.io/library/app:1", "quay.io/me/app"]), &[&one, &two, &one], "");
    let id = hex(&files[files.len() - 2].1);
    for (way, source) in every_way(&files, &[]).into_iter().enumerate() {
        let home = Home::new();
        let loaded = home.load(source).unwrap_or_else(|error| panic!("way {way}: {error:?}"));
        assert_eq!(loaded[0].image.0.hex(), id);
        assert_eq!(names(&loaded), ["app:1", "quay.io/me/app:latest"]);
        let image = home.store.images().find("app:1").unwrap().unwrap();
        assert_eq!(
            image.layers.iter().map(|layer| layer.0.hex()).collect::<Vec<_>>(),
            [&one, &two, &one].map(|layer| hex(layer))
        );

        let saved = home.save(&["app:1"], Format::Docker);
        assert_eq!(saved, home.save(&["app:1"], Format::Docker), "two saves are the same bytes");
        let mut content: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut archive = tar::Archive::new(&saved[..]);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            content.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        assert_eq!(content[&format!("{}.tar", hex(&one))], one);
        assert_eq!(content[&format!("{id}.json")], files[files.len() - 2].1);
        let other = Home::new();
        assert_eq!(other.load(in_stream(&saved)).unwrap()[0].image.0.hex(), id);
    }
}

#[test]
fn an_oci_image_goes_out_with_the_digest_it_came_with() {
    let (one, two) = (layer("one", 100_000), layer("two", 10));
    let packed =
        [(&one[..], gzip(&one)), (&two[..], zstd::encode_all(&two[..], 3).unwrap()), (&two[..], two.clone())];
    let (files, manifest) = oci(Some("quay.io/me/app:2"), &packed, "");
    let mut sources = every_way(&files, &[]);
    let folder = tempfile::tempdir().unwrap();
    sources.push(in_folder(&files, folder.path()));
    for (way, source) in sources.into_iter().enumerate() {
        let home = Home::new();
        let loaded = home.load(source).unwrap_or_else(|error| panic!("way {way}: {error:?}"));
        assert_eq!(names(&loaded), ["quay.io/me/app:2"]);
        let digest = format!("quay.io/me/app@sha256:{}", hex(&manifest));
        assert_eq!(home.store.images().find(&digest).unwrap().unwrap().id, loaded[0].image);

        let saved = home.save(&["quay.io/me/app:2"], Format::Oci);
        let other = Home::new();
        let again = other.load(in_file(&saved)).unwrap();
        assert_eq!(again[0].image, loaded[0].image);
        let image = other.store.images().find(&digest).unwrap().unwrap();
        assert_eq!(image.manifest.unwrap().0.hex(), hex(&manifest));
        assert_eq!(other.store.blobs().read(image.manifest.unwrap()).unwrap(), manifest);
        assert_eq!(other.save(&["quay.io/me/app:2"], Format::Oci), saved);
    }
}

const FORMATS: [Format; 3] = [Format::Docker, Format::Oci, Format::Dir];

/// Every way to pack, by which layers of the samples leave.
fn repacks() -> Vec<Repack> {
    let packing = |form, level| Packing::new(form, level).unwrap();
    vec![
        Repack::Keep,
        Repack::Others(Packing::GZIP),
        Repack::Others(Packing::ZSTD),
        Repack::Others(Packing::NONE),
        Repack::All(packing(Compression::Gzip, Some(9))),
        Repack::All(packing(Compression::Zstd, Some(1))),
        Repack::All(Packing::NONE),
    ]
}

/// An image that came with a manifest, layers packed in three forms, and one that came without.
fn samples() -> [(&'static str, Vec<u8>); 2] {
    let (one, two) = (layer("one", 1_300_000), layer("two", 10));
    let packed =
        [(&one[..], gzip(&one)), (&two[..], zstd::encode_all(&two[..], 3).unwrap()), (&two[..], two.clone())];
    let with = oci(Some("quay.io/me/with:1"), &packed, "").0;
    let without = docker(&json!(["without:1"]), &[&one, &two, &layer("three", 100)], "");
    [("quay.io/me/with:1", tar_of(&with, &[])), ("without:1", tar_of(&without, &[]))]
}

/// The files of an archive, by name.
fn files_of(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let name = entry.path().unwrap().display().to_string();
        assert!(files.insert(name, bytes).is_none(), "each file is written once");
    }
    files
}

#[test]
fn what_save_wrote_comes_back_the_same_in_each_format_and_packing() {
    for (name, archive) in samples() {
        let home = Home::new();
        let id = home.load(in_file(&archive)).unwrap()[0].image;
        for format in FORMATS {
            for repack in repacks() {
                let what = format!("{name} {format:?} {repack:?}");
                let options = SaveOptions { format, repack };
                let saved = home.save_as(&[name], options);
                let other = Home::new();
                let files: Files = files_of(&saved).into_iter().collect();
                for source in every_way(&files, &[]) {
                    let loaded = other.load(source).unwrap_or_else(|error| panic!("{what}: {error:?}"));
                    assert_eq!(loaded[0].image, id, "{what}");
                    let expected: &[&str] = if format == Format::Dir { &[] } else { &[name] };
                    assert_eq!(names(&loaded), expected, "{what}");
                }
                // What came in leaves as it came: manifest and blobs are the same bytes.
                if format != Format::Docker {
                    let image = other.store.images().get(id).unwrap().unwrap();
                    let manifest = other.store.blobs().read(image.manifest.unwrap()).unwrap();
                    assert!(files.iter().any(|(_, bytes)| *bytes == manifest), "{what}");
                    let again =
                        other.save_as(&[&id.to_string()], SaveOptions { format, repack: Repack::Keep });
                    let blobs = |files: BTreeMap<String, Vec<u8>>| -> BTreeMap<String, Vec<u8>> {
                        files.into_iter().filter(|(name, _)| name != "index.json").collect()
                    };
                    assert!(blobs(files_of(&again)) == blobs(files.into_iter().collect()), "{what}");
                }
            }
        }
    }
}

#[test]
fn a_save_depends_on_the_image_alone_not_on_what_came_in_when() {
    let samples = samples();
    let [forwards, backwards] = [false, true].map(|backwards| {
        let home = Home::new();
        let mut order: Vec<_> = samples.iter().collect();
        if backwards {
            order.reverse();
        }
        for (_, archive) in &order {
            home.load(in_stream(archive)).unwrap();
        }
        home
    });
    for format in FORMATS {
        for repack in repacks() {
            let options = SaveOptions { format, repack };
            for (name, _) in &samples {
                let first = forwards.save_as(&[name], options);
                assert!(first == forwards.save_as(&[name], options), "{name} {options:?}: a second save");
                assert!(first == backwards.save_as(&[name], options), "{name} {options:?}: another store");
            }
        }
    }
}

#[test]
fn a_later_load_does_not_change_what_was_saved() {
    let plain = layer("one", 1000);
    let home = Home::new();
    home.load(in_file(&tar_of(&docker(&json!(["app:1"]), &[&plain], ""), &[]))).unwrap();
    let first = home.save(&["app:1"], Format::Oci);
    // The same layer in a smaller form than ours.
    let mut small = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    small.write_all(&plain).unwrap();
    let other = oci(Some("other:1"), &[(&plain[..], small.finish().unwrap())], "other").0;
    home.load(in_file(&tar_of(&other, &[]))).unwrap();
    assert!(home.save(&["app:1"], Format::Oci) == first);
    let digest = home.store.images().find("app:1").unwrap().unwrap().manifest.unwrap();
    assert!(files_of(&first).contains_key(&format!("blobs/sha256/{}", digest.0.hex())));
}

#[test]
fn layers_are_packed_as_asked_and_called_what_they_are() {
    let [(name, archive), _] = samples();
    let home = Home::new();
    home.load(in_file(&archive)).unwrap();
    let manifest = |repack| -> Value {
        let options = SaveOptions { format: Format::Dir, repack };
        serde_json::from_slice(&files_of(&home.save_as(&[name], options))["manifest.json"]).unwrap()
    };
    let types = |manifest: &Value| -> Vec<String> {
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers
            .map(|layer| layer["mediaType"].as_str().unwrap().rsplit('.').next().unwrap().to_owned())
            .collect()
    };
    let kept = manifest(Repack::Keep);
    let gzip = manifest(Repack::Others(Packing::GZIP));
    assert_eq!(types(&gzip), ["tar+gzip"; 3]);
    assert_eq!(gzip["layers"][0]["digest"], kept["layers"][0]["digest"], "what is gzip stays as it came");
    let anew = manifest(Repack::All(Packing::GZIP));
    assert_ne!(anew["layers"][0]["digest"], kept["layers"][0]["digest"]);
    let zstd = manifest(Repack::Others(Packing::ZSTD));
    assert_eq!(types(&zstd), ["tar+zstd"; 3]);
    assert_eq!(zstd["layers"][1]["digest"], kept["layers"][1]["digest"]);
    assert_eq!(types(&manifest(Repack::Others(Packing::NONE))), ["tar"; 3]);
    // What was packed for once is not kept, and does not change how the image leaves by default.
    assert_eq!(manifest(Repack::Keep), kept);
    let docker =
        home.save_as(&[name], SaveOptions { format: Format::Docker, repack: Repack::Others(Packing::ZSTD) });
    let packed = files_of(&docker).into_iter().filter(|(name, _)| name.ends_with(".tar.zst"));
    assert_eq!(packed.count(), 2, "of three layers two are the same");
}

/// A `dir:` of one image, as skopeo writes it.
fn dir(manifest: &[u8], oci: &[(String, Vec<u8>)]) -> Files {
    let mut files = vec![
        ("version".to_owned(), b"Directory Transport Version: 1.1\n".to_vec()),
        ("manifest.json".to_owned(), manifest.to_vec()),
    ];
    let blobs = oci
        .iter()
        .filter_map(|(name, bytes)| Some((name.strip_prefix("blobs/sha256/")?.to_owned(), bytes.clone())));
    files.extend(blobs.filter(|(_, bytes)| bytes != manifest));
    files
}

#[test]
fn a_dir_comes_in_with_an_index_in_it_too() {
    let plain = layer("one", 1000);
    let (layout, manifest) = oci(None, &[(&plain, gzip(&plain))], "");
    let mut files = dir(&manifest, &layout);
    let mut every = every_way(&files, &[]);
    let folder = tempfile::tempdir().unwrap();
    every.push(in_folder(&files, folder.path()));
    for source in every {
        let home = Home::new();
        let loaded = home.load(source).unwrap();
        assert_eq!((loaded.len(), names(&loaded).len()), (1, 0));
        let image = home.store.images().get(loaded[0].image).unwrap().unwrap();
        assert_eq!(image.manifest.unwrap().0.hex(), hex(&manifest));
    }
    let mut entry = descriptor(MANIFEST, &manifest);
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});
    files[1].1 = serde_json::to_vec(&index).unwrap();
    files.push((format!("{}.manifest.json", hex(&manifest)), manifest.clone()));
    for source in every_way(&files, &[]) {
        assert_eq!(Home::new().load(source).unwrap()[0].image.0.hex(), hex(&config(&[&plain], "")));
    }
    // A blob that is not what its name says, and one that is not there.
    let name = hex(&gzip(&plain));
    let without: Files = files.iter().filter(|(known, _)| *known != name).cloned().collect();
    for wrong in [replaced(&files, &name, &gzip(&layer("two", 10))), without] {
        for source in every_way(&wrong, &[]) {
            let home = Home::new();
            assert!(home.load(source).is_err());
            assert_eq!(home.content(), BTreeSet::new());
        }
    }
}

#[test]
fn a_docker_archive_of_go_containerregistry_comes_in() {
    // Kaniko and crane: the config is called by its digest, layers are `<blob's hex>.tar.gz`.
    let (one, two) = (layer("one", 1000), layer("two", 1000));
    let config = config(&[&one, &two], "");
    let name = format!("sha256:{}", hex(&config));
    let packed = [gzip(&one), gzip(&two)];
    let paths = packed.each_ref().map(|bytes| format!("{}.tar.gz", hex(bytes)));
    let listed = json!([{"Config": name, "RepoTags": ["app:1"], "Layers": paths}]);
    let mut files: Files = paths.iter().cloned().zip(packed.clone()).collect();
    files.push((name.clone(), config.clone()));
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&listed).unwrap()));
    for source in every_way(&files, &[]) {
        assert_eq!(Home::new().load(source).unwrap()[0].image.0.hex(), hex(&config));
    }
    let lying = replaced(&files, &name, &config_of_another(&one, &two));
    for source in every_way(&lying, &[]) {
        assert!(matches!(Home::new().load(source), Err(TransferError::Damaged { .. })));
    }
}

fn config_of_another(one: &[u8], two: &[u8]) -> Vec<u8> {
    config(&[one, two], "another")
}

#[test]
fn an_image_without_layers_and_layers_in_every_compression_come_in_and_leave() {
    let none = docker(&json!(["none:1"]), &[], "");
    let home = Home::new();
    home.load(in_stream(&tar_of(&none, &[]))).unwrap();
    for format in FORMATS {
        let saved = home.save(&["none:1"], format);
        assert_eq!(Home::new().load(in_stream(&saved)).unwrap().len(), 1, "{format:?}");
    }
    // xz and bzip2 have no name among layers: such a layer leaves as gzip.
    let (one, two) = (layer("one", 3000), layer("two", 3000));
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    xz.write_all(&one).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&two).unwrap();
    let mut files = docker(&json!(["odd:1"]), &[&one, &two], "");
    files = replaced(&files, &format!("{}/layer.tar", hex(&one)), &xz.finish().unwrap());
    files = replaced(&files, &format!("{}/layer.tar", hex(&two)), &bzip2.finish().unwrap());
    for source in every_way(&files, &[]) {
        let home = Home::new();
        let id = home.load(source).unwrap()[0].image;
        for format in FORMATS {
            let saved = home.save(&["odd:1"], format);
            assert_eq!(Home::new().load(in_stream(&saved)).unwrap()[0].image, id, "{format:?}");
        }
    }
}

#[test]
fn a_copy_keeps_digests_and_leaves_nothing_in_the_store() {
    let plain = layer("one", 100_000);
    let (files, manifest) = oci(Some("app:1"), &[(&plain, gzip(&plain))], "");
    let options = LoadOptions { platform: "linux/amd64".parse().unwrap(), only: None, names: None };
    for format in FORMATS {
        for source in every_way(&files, &[]) {
            let home = Home::new();
            let save = SaveOptions { format, repack: Repack::Keep };
            let called = Copied { names: vec!["new:2".parse().unwrap()], tag: None };
            let mut bytes = Vec::new();
            copy(&home.store, source, &options, called, save, Target::Archive(&mut bytes)).unwrap();
            assert_eq!(home.content(), BTreeSet::new(), "{format:?}");
            let files = files_of(&bytes);
            assert_eq!(files.values().any(|bytes| *bytes == manifest), format != Format::Docker);
            let loaded = Home::new().load(in_stream(&bytes)).unwrap();
            assert_eq!(loaded[0].image.0.hex(), hex(&config(&[&plain], "")));
            assert_eq!(names(&loaded), if format == Format::Dir { vec![] } else { vec!["new:2"] });
        }
    }
    // A layer that was there stays, also when the copy fails.
    let home = Home::new();
    home.load(in_file(&tar_of(&files, &[]))).unwrap();
    let before = home.content();
    let broken = replaced(&files, &files[2].0, &gzip(&layer("other", 10)));
    for files in [files, broken] {
        let save = SaveOptions { format: Format::Oci, repack: Repack::All(Packing::ZSTD) };
        let mut bytes = Vec::new();
        let target = Target::Archive(&mut bytes);
        drop(copy(&home.store, in_file(&tar_of(&files, &[])), &options, Copied::default(), save, target));
        assert_eq!(home.content(), before);
    }
}

#[test]
fn one_image_of_several_is_taken_by_name_and_may_be_called_otherwise() {
    let (one, two) = (layer("one", 10), layer("two", 10));
    let (first, first_manifest) = oci(Some("1.0"), &[(&one, gzip(&one))], "");
    let (second, second_manifest) = oci(Some("b:2"), &[(&two, gzip(&two))], "");
    let entry = |bytes: &[u8], name: &str| {
        let mut entry = descriptor(MANIFEST, bytes);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        entry
    };
    let entries = json!([entry(&first_manifest, "1.0"), entry(&second_manifest, "b:2")]);
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": entries})).unwrap();
    let mut files = replaced(&first, "index.json", &index);
    files.extend(second.into_iter().skip(2));
    let options = |only: Option<&str>, names: Option<&str>| LoadOptions {
        platform: "linux/amd64".parse().unwrap(),
        only: only.map(str::to_owned),
        names: names.map(|name| vec![name.parse().unwrap()]),
    };
    let load = |home: &Home, options| load(&home.store, in_file(&tar_of(&files, &[])), &options);
    for (only, plain) in [("1.0", &one), ("b:2", &two), ("docker.io/library/b:2", &two)] {
        let home = Home::new();
        let loaded = load(&home, options(Some(only), Some("mine:3"))).unwrap();
        assert_eq!(loaded[0].image.0.hex(), hex(&config(&[plain], "")), "{only}");
        assert_eq!(names(&loaded), ["mine:3"]);
        assert_eq!(home.content().iter().filter(|name| name.starts_with("layers/")).count(), 1);
    }
    let home = Home::new();
    let error = load(&home, options(Some("c"), None)).unwrap_err().to_string();
    assert!(error.contains("`c`") && error.contains("1.0") && error.contains("b:2"), "{error}");
    let error = load(&home, options(None, Some("mine"))).unwrap_err().to_string();
    assert!(error.contains("2 images"), "{error}");
    assert_eq!(home.content(), BTreeSet::new());
}

#[test]
fn a_layout_that_is_there_grows_and_keeps_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let plain = layer("one", 1000);
    let (files, manifest) = oci(Some("old"), &[(&plain, gzip(&plain))], "");
    in_folder(&files, folder.path());
    let index = folder.path().join("index.json");
    let mut value: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    value["x-unknown"] = json!([1]);
    value["manifests"][0]["artifactType"] = json!("kept");
    std::fs::write(&index, serde_json::to_vec(&value).unwrap()).unwrap();
    let options = LoadOptions { platform: "linux/amd64".parse().unwrap(), only: None, names: None };
    let home = Home::new();
    let add = |more: &str, tag: &str| {
        let other = oci(Some("x"), &[(&plain, gzip(&plain))], more).0;
        let called = Copied { names: vec![], tag: Some(tag.to_owned()) };
        let save = SaveOptions { format: Format::Oci, repack: Repack::Keep };
        let source = in_file(&tar_of(&other, &[]));
        copy(&home.store, source, &options, called, save, Target::Layout(folder.path()))
    };
    add("second", "new").unwrap();
    add("third", "new").unwrap();
    add("third", "new").unwrap();
    let value: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    assert_eq!(value["x-unknown"], json!([1]));
    assert_eq!(value["manifests"][0]["artifactType"], "kept");
    assert_eq!(value["manifests"][0]["digest"], format!("sha256:{}", hex(&manifest)));
    assert_eq!(value["manifests"].as_array().unwrap().len(), 2, "a tag stands once");
    let loaded = home.load(Source::Folder(folder.path().to_owned())).unwrap();
    assert_eq!(loaded[1].image.0.hex(), hex(&config(&[&plain], "third")));
    // What is no index is not written over.
    std::fs::write(&index, "{}").unwrap();
    add("fourth", "new").unwrap_err();
    assert_eq!(std::fs::read(&index).unwrap(), b"{}");
    let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')));
}

#[test]
fn an_image_without_a_manifest_gets_the_same_one_in_every_store() {
    let files = docker(&json!(["app"]), &[&layer("one", 3_000_000)], "");
    let [first, second] = [Home::new(), Home::new()].map(|home| {
        home.load(in_file(&tar_of(&files, &[]))).unwrap();
        home.save(&["app:latest"], Format::Oci)
    });
    assert_eq!(first, second);
}

#[test]
fn several_images_share_layers_and_may_have_no_names() {
    let (one, two) = (layer("one", 1000), layer("two", 1000));
    let mut files = docker(&json!(null), &[&one], "first");
    let second = docker(&json!(["b"]), &[&one, &two], "second");
    let list = |files: &Files| -> Vec<Value> { serde_json::from_slice(&files.last().unwrap().1).unwrap() };
    let both = [list(&files), list(&second)].concat();
    files.pop();
    for file in &second[..second.len() - 1] {
        if !files.contains(file) {
            files.push(file.clone());
        }
    }
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&both).unwrap()));
    for source in every_way(&files, &[]) {
        let home = Home::new();
        let loaded = home.load(source).unwrap();
        assert_eq!(loaded.len(), 2);
        assert!(loaded[0].names.is_empty());
        assert_eq!(names(&loaded), ["b:latest"]);
        assert_eq!(home.content().iter().filter(|name| name.starts_with("layers/")).count(), 2);
        let id = loaded[0].image.to_string();
        let saved = home.save(&[&id, "b:latest"], Format::Docker);
        let shared = format!("{}.tar", hex(&one));
        let mut archive = tar::Archive::new(&saved[..]);
        let entries =
            archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
        assert_eq!(entries.filter(|name| *name == shared).count(), 1, "a shared layer is written once");
    }
}

#[test]
fn a_layer_may_be_a_link_and_may_be_compressed_whatever_its_name() {
    let (one, two) = (layer("one", 1000), layer("two", 1000));
    let mut files = docker(&json!(["app"]), &[&one, &two, &one], "");
    for (name, content) in &mut files {
        if *content == one {
            *content = gzip(&one);
            *name = "real/layer.tar".to_owned();
        } else if *content == two {
            *content = zstd::encode_all(&two[..], 1).unwrap();
        }
    }
    let link = format!("{}/layer.tar", hex(&one));
    for source in every_way(&files, &[(&link, "../real/layer.tar")]) {
        let home = Home::new();
        home.load(source).unwrap();
        let image = home.store.images().find("app").unwrap().unwrap();
        assert_eq!(
            image.layers.iter().map(|layer| layer.0.hex()).collect::<Vec<_>>(),
            [&one, &two, &one].map(|layer| hex(layer))
        );
    }
}

#[test]
fn of_several_platforms_ours_is_taken_and_attestations_are_passed_over() {
    let plain = layer("one", 10);
    let build = |more: &str| oci(None, &[(&plain, gzip(&plain))], more);
    let ((ours, ours_manifest), (theirs, theirs_manifest)) = (build("ours"), build("theirs"));
    let entry = |bytes: &[u8], os: &str, architecture: &str| {
        let mut entry = descriptor(MANIFEST, bytes);
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let mut attestation = entry(b"{}", "unknown", "unknown");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let entries = json!([
        entry(&theirs_manifest, "linux", "arm64"),
        entry(&ours_manifest, "linux", "amd64"),
        attestation
    ]);
    let index =
        serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})).unwrap();
    let mut top = descriptor(INDEX, &index);
    top["annotations"] = json!({"io.containerd.image.name": "docker.io/library/app:9", "org.opencontainers.image.ref.name": "9"});
    let nested = json!({"schemaVersion": 2, "manifests": [top]});
    let flat = json!({"schemaVersion": 2, "manifests": entries});
    for (outer, expected) in [(&nested, vec!["app:9".to_owned()]), (&flat, vec![])] {
        // The other platform's blobs are not even there, as in a `docker save` of what was pulled.
        let mut files: Files = ours.iter().filter(|(name, _)| name != "index.json").cloned().collect();
        files.push(("index.json".to_owned(), serde_json::to_vec(outer).unwrap()));
        files.push(blob(&index));
        for source in every_way(&files, &[]) {
            let loaded = Home::new().load(source).unwrap();
            assert_eq!(names(&loaded), expected);
            assert_eq!(loaded[0].image.0.hex(), hex(&config(&[&plain], "ours")));
        }
    }
    let home = Home::new();
    let mut files: Files = theirs.iter().filter(|(name, _)| name != "index.json").cloned().collect();
    files.push(("index.json".to_owned(), serde_json::to_vec(&nested).unwrap()));
    files.push(blob(&index));
    let options = |platform: &str| LoadOptions {
        platform: platform.parse::<Platform>().unwrap(),
        only: None,
        names: None,
    };
    let error = load(&home.store, in_file(&tar_of(&files, &[])), &options("linux/s390x")).unwrap_err();
    assert!(
        error.to_string().contains("linux/s390x") && error.to_string().contains("linux/arm64"),
        "{error}"
    );
    let loaded = load(&home.store, in_file(&tar_of(&files, &[])), &options("linux/arm64")).unwrap();
    assert_eq!(loaded[0].image.0.hex(), hex(&config(&[&plain], "theirs")));
}

#[test]
fn a_hybrid_of_docker_25_keeps_its_digests_and_takes_its_names_from_either_document() {
    let plain = layer("one", 10);
    let (mut files, manifest) = oci(None, &[(&plain, gzip(&plain))], "");
    let config = format!("blobs/sha256/{}", hex(&config(&[&plain], "")));
    let layers = [format!("blobs/sha256/{}", hex(&gzip(&plain)))];
    let listed = json!([{"Config": config, "RepoTags": ["app:25"], "Layers": layers}]);
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&listed).unwrap()));
    for source in every_way(&files, &[]) {
        let home = Home::new();
        assert_eq!(names(&home.load(source).unwrap()), ["app:25"]);
        let image = home.store.images().find("app:25").unwrap().unwrap();
        assert_eq!(image.manifest.unwrap().0.hex(), hex(&manifest));
    }
    // The same archive without its index is a docker-archive.
    files.retain(|(name, _)| name != "index.json");
    for source in every_way(&files, &[]) {
        assert_eq!(names(&Home::new().load(source).unwrap()), ["app:25"]);
    }
}

#[test]
fn the_form_before_docker_1_10_comes_in() {
    let (one, two) = (layer("one", 10), layer("two", 10));
    let [bottom, top] = ["b", "7"].map(|digit| digit.repeat(64));
    let lower = json!({"id": bottom, "created": "2015-01-01T00:00:00Z", "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) ADD"]}, "os": "linux"});
    let upper = json!({
        "id": top, "parent": bottom, "created": "2015-01-02T00:00:00Z", "architecture": "amd64", "os": "linux", "Size": 5,
        "config": {"Env": ["A=1"], "Cmd": ["/a"]}, "container_config": {"Cmd": ["/bin/sh", "-c", "true"]}, "author": "Ann",
    });
    let mut files: Files = Vec::new();
    for (id, json, layer) in [(&bottom, &lower, &one), (&top, &upper, &two)] {
        files.push((format!("{id}/VERSION"), b"1.0".to_vec()));
        files.push((format!("{id}/json"), serde_json::to_vec(json).unwrap()));
        files.push((format!("{id}/layer.tar"), layer.clone()));
    }
    files.push(("repositories".to_owned(), serde_json::to_vec(&json!({"old/app": {"1": top}})).unwrap()));
    let ids: BTreeSet<String> = every_way(&files, &[])
        .into_iter()
        .map(|source| {
            let home = Home::new();
            let loaded = home.load(source).unwrap();
            assert_eq!(names(&loaded), ["old/app:1"]);
            let image = home.store.images().find("old/app:1").unwrap().unwrap();
            assert_eq!(
                image.layers.iter().map(|layer| layer.0.hex()).collect::<Vec<_>>(),
                [hex(&one), hex(&two)]
            );
            assert_eq!(image.config.config.env, ["A=1"]);
            assert_eq!(image.config.author.as_deref(), Some("Ann"));
            assert_eq!(image.config.history[0].created_by.as_deref(), Some("/bin/sh -c #(nop) ADD"));
            assert!(!image.config.extra.contains_key("id") && !image.config.extra.contains_key("Size"));
            image.id.to_string()
        })
        .collect();
    assert_eq!(ids.len(), 1, "the config is put together in one way");

    let lost: Files = files.iter().filter(|(name, _)| *name != format!("{bottom}/json")).cloned().collect();
    let mut cyclic = files.clone();
    cyclic[1].1 = serde_json::to_vec(&json!({"id": bottom, "parent": top})).unwrap();
    for (bad, word) in [(lost, "there is no"), (cyclic, "too many rounds")] {
        for source in every_way(&bad, &[]) {
            let home = Home::new();
            let error = home.load(source).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(home.content(), BTreeSet::new());
        }
    }
}

#[test]
fn a_name_that_moves_is_reported_and_the_other_image_stays() {
    let home = Home::new();
    let archive = |more: &str| tar_of(&docker(&json!(["app"]), &[&layer("one", 10)], more), &[]);
    let first = home.load(in_file(&archive("first"))).unwrap();
    assert!(first[0].names[0].moved_from.is_none());
    let same = home.load(in_file(&archive("first"))).unwrap();
    assert!(same[0].names[0].moved_from.is_none());
    let second = home.load(in_file(&archive("second"))).unwrap();
    assert_eq!(second[0].names[0].moved_from, Some(first[0].image));
    assert!(home.store.images().get(first[0].image).unwrap().unwrap().names.is_empty());
}

/// Rewrites one document of an archive.
fn with(files: &Files, name: &str, change: impl FnOnce(&mut Value)) -> Files {
    let mut files = files.clone();
    let file = files.iter_mut().find(|(known, _)| known == name).unwrap();
    let mut value = serde_json::from_slice(&file.1).unwrap();
    change(&mut value);
    file.1 = serde_json::to_vec(&value).unwrap();
    files
}

/// Puts other bytes in place of a file.
fn replaced(files: &Files, name: &str, bytes: &[u8]) -> Files {
    let mut files = files.clone();
    files.iter_mut().find(|(known, _)| known == name).unwrap().1 = bytes.to_vec();
    files
}

fn hostile_docker_archives() -> Vec<(&'static str, Files)> {
    let (one, two) = (layer("one", 1000), layer("two", 1000));
    let good = docker(&json!(["app"]), &[&one, &two], "");
    let config_name = good[good.len() - 2].0.clone();
    let paths = [&one, &two].map(|layer| format!("{}/layer.tar", hex(layer)));
    let manifest = |change: &dyn Fn(&mut Value)| with(&good, "manifest.json", |value| change(&mut value[0]));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let three = config(&[&one, &two, &one], "");
    vec![
        ("layers outside", manifest(&|image| image["Layers"] = json!(["../../x/layer.tar", paths[1]]))),
        ("an absolute layer", manifest(&|image| image["Layers"] = json!(["/etc/passwd", paths[1]]))),
        ("a config outside", manifest(&|image| image["Config"] = json!("../../../etc/passwd"))),
        ("a config that is a layer", manifest(&|image| image["Config"] = json!(paths[0]))),
        ("a layer that is a config", manifest(&|image| image["Layers"] = json!([config_name, paths[1]]))),
        ("swapped layers", manifest(&|image| image["Layers"] = json!([paths[1], paths[0]]))),
        ("a layer too few", manifest(&|image| image["Layers"] = json!([paths[0]]))),
        ("a layer too many", manifest(&|image| image["Layers"] = json!([paths[0], paths[1], paths[1]]))),
        ("no layers", manifest(&|image| image["Layers"] = json!(null))),
        ("a bad name", manifest(&|image| image["RepoTags"] = json!(["../../etc:x"]))),
        ("a name with an escape", manifest(&|image| image["RepoTags"] = json!(["a\u{1b}[2J:x"]))),
        ("names of another kind", manifest(&|image| image["RepoTags"] = json!({"a": 1}))),
        ("no images", replaced(&good, "manifest.json", b"[]")),
        ("a manifest that is no list", replaced(&good, "manifest.json", b"{}")),
        ("a doubled key", replaced(&good, "manifest.json", br#"[{"Config":"a","Config":"b","Layers":[]}]"#)),
        ("two values", replaced(&good, "manifest.json", b"[] []")),
        ("a deep manifest", replaced(&good, "manifest.json", deep.as_bytes())),
        ("a large manifest", replaced(&good, "manifest.json", &vec![b' '; 5 << 20])),
        ("a manifest that stands twice", [good.clone(), vec![good[good.len() - 1].clone()]].concat()),
        ("a layer that stands twice", [good.clone(), vec![good[0].clone()]].concat()),
        ("a config that is not what it is called", replaced(&good, &config_name, &three)),
        ("another layer's content", replaced(&good, &paths[0], &two)),
        ("a layer that is no tar", replaced(&good, &paths[0], &[7; 2048])),
        ("an empty layer", replaced(&good, &paths[0], b"")),
        ("a broken gzip", replaced(&good, &paths[0], &gzip(&one)[..200])),
        ("no layer file", good.iter().filter(|(name, _)| *name != paths[1]).cloned().collect()),
        ("no config file", good.iter().filter(|(name, _)| *name != config_name).cloned().collect()),
        ("no documents", good[..2].to_vec()),
        ("nothing", Vec::new()),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn hostile_oci_archives() -> Vec<(&'static str, Files)> {
    let (one, two) = (layer("one", 1000), layer("two", 1000));
    let packed = [(&one[..], gzip(&one)), (&two[..], gzip(&two))];
    let (good, manifest) = oci(Some("app"), &packed, "");
    let index = |change: &dyn Fn(&mut Value)| with(&good, "index.json", |value| change(value));
    let entry =
        |change: &dyn Fn(&mut Value)| with(&good, "index.json", |value| change(&mut value["manifests"][0]));
    // A manifest with right digest and size above it, and something wrong inside.
    let inside = |change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::from_slice(&manifest).unwrap();
        change(&mut value);
        let bytes = serde_json::to_vec(&value).unwrap();
        let mut files = entry(&|entry| {
            entry["digest"] = json!(format!("sha256:{}", hex(&bytes)));
            entry["size"] = json!(bytes.len());
        });
        files.push(blob(&bytes));
        files
    };
    let name_of = |bytes: &[u8]| format!("blobs/sha256/{}", hex(bytes));
    let swapped = oci(None, &[(&one[..], gzip(&two)), (&two[..], gzip(&one))], "").0;
    let mut rounds = index(&|_| {});
    let cyclic = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, "{}");
    rounds.push((name_of(cyclic.as_bytes()), cyclic.clone().into_bytes()));
    let nested = {
        // Six indexes, each in the next: more rounds than any tool makes.
        let mut files = good.clone();
        let mut inner = descriptor(MANIFEST, &manifest);
        for _ in 0..6 {
            let bytes =
                serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}))
                    .unwrap();
            inner = descriptor(INDEX, &bytes);
            files.push(blob(&bytes));
        }
        with(&files, "index.json", |value| value["manifests"][0] = inner.clone())
    };
    vec![
        ("a digest that is a path", entry(&|entry| entry["digest"] = json!("sha256:../../../../etc/passwd"))),
        (
            "a digest of another kind",
            entry(&|entry| entry["digest"] = json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
        ),
        ("an empty digest", entry(&|entry| entry["digest"] = json!("sha256:"))),
        ("no digest", entry(&|entry| drop(entry.as_object_mut().unwrap().remove("digest")))),
        ("a lying digest", entry(&|entry| entry["digest"] = json!(format!("sha256:{}", "0".repeat(64))))),
        ("a lying size", entry(&|entry| entry["size"] = json!(manifest.len() + 1))),
        ("a negative size", entry(&|entry| entry["size"] = json!(-1))),
        ("a manifest called an index", entry(&|entry| entry["mediaType"] = json!(INDEX))),
        ("an index with layers", index(&|index| index["layers"] = json!([]))),
        ("an index of another schema", index(&|index| index["schemaVersion"] = json!(1))),
        ("an index without images", index(&|index| index["manifests"] = json!([]))),
        ("another layout", replaced(&good, "oci-layout", br#"{"imageLayoutVersion":"9.0"}"#)),
        ("a large layout mark", replaced(&good, "oci-layout", &vec![b' '; 5 << 20])),
        ("a layer of a lying size", inside(&|manifest| manifest["layers"][0]["size"] = json!(1))),
        (
            "layers swapped",
            inside(&|manifest| {
                let layers = manifest["layers"].as_array_mut().unwrap();
                layers.swap(0, 1);
            }),
        ),
        ("layers with each other's diff IDs", swapped),
        ("a layer too few", inside(&|manifest| drop(manifest["layers"].as_array_mut().unwrap().pop()))),
        ("a manifest with manifests", inside(&|manifest| manifest["manifests"] = json!([]))),
        (
            "a config of another kind",
            inside(&|manifest| manifest["config"]["mediaType"] = json!("application/x")),
        ),
        (
            "a config that is a layer",
            inside(&|manifest| {
                let size = gzip(&one).len();
                manifest["config"]["digest"] = json!(format!("sha256:{}", hex(&gzip(&one))));
                manifest["config"]["size"] = json!(size);
            }),
        ),
        (
            "an encrypted layer",
            inside(&|manifest| {
                manifest["layers"][0]["mediaType"] =
                    json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
            }),
        ),
        (
            "a layer elsewhere",
            inside(&|manifest| {
                manifest["layers"][0]["digest"] = json!(format!("sha256:{}", "1".repeat(64)));
                manifest["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
            }),
        ),
        ("a flipped bit in a layer", {
            let mut bytes = gzip(&one);
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            replaced(&good, &name_of(&gzip(&one)), &bytes)
        }),
        ("more behind a layer", replaced(&good, &name_of(&gzip(&one)), &[gzip(&one), vec![0; 100]].concat())),
        ("a manifest of other bytes", replaced(&good, &name_of(&manifest), b"{}")),
        (
            "an empty descriptor in an index",
            with(&rounds, "index.json", |value| {
                value["manifests"][0] = descriptor(INDEX, cyclic.as_bytes());
            }),
        ),
        ("too many rounds", nested),
    ]
}

#[test]
fn what_is_wrong_is_one_clear_error_and_leaves_the_store_as_it_was() {
    let all = hostile_docker_archives().into_iter().chain(hostile_oci_archives());
    for (what, files) in all {
        for (way, source) in every_way(&files, &[]).into_iter().enumerate() {
            let home = Home::new();
            let error = match home.load(source) {
                Err(error) => error,
                Ok(loaded) => panic!("{what}, way {way}: loaded {loaded:?}"),
            };
            let text = error.to_string();
            assert!(!text.is_empty() && !text.contains(['\n', '\u{1b}']), "{what}: {text}");
            assert_eq!(home.content(), BTreeSet::new(), "{what}, way {way}: {text}");
        }
    }
}

#[test]
fn a_failed_load_does_not_touch_what_was_there() {
    let (one, two) = (layer("one", 1000), layer("two", 1000));
    let home = Home::new();
    home.load(in_file(&tar_of(&docker(&json!(["app"]), &[&one], ""), &[]))).unwrap();
    let before = home.content();
    // The second image shares a layer with the first and lacks another one.
    let mut files = docker(&json!(["app", "other"]), &[&one, &two], "second");
    files.retain(|(name, _)| *name != format!("{}/layer.tar", hex(&two)));
    for source in every_way(&files, &[]) {
        home.load(source).unwrap_err();
        assert_eq!(home.content(), before);
    }
    let image = home.store.images().find("app").unwrap().unwrap();
    let mut tar = Vec::new();
    home.store.layers().tar(image.layers[0]).unwrap().read_to_end(&mut tar).unwrap();
    assert_eq!(tar, one);
}

#[test]
fn links_out_of_the_archive_lead_nowhere() {
    let one = layer("one", 1000);
    for target in ["../../../../etc/shadow", "/etc/shadow", "loop/layer.tar"] {
        let mut files = docker(&json!(["app"]), &[&one], "");
        files.retain(|(name, _)| !name.ends_with("layer.tar"));
        let link = format!("{}/layer.tar", hex(&one));
        let looped = ("loop/layer.tar", "../loop/layer.tar");
        for source in every_way(&files, &[(&link, target), looped]) {
            let home = Home::new();
            assert!(matches!(home.load(source), Err(TransferError::Missing { .. })), "{target}");
            assert_eq!(home.content(), BTreeSet::new());
        }
    }
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let (one, two) = (layer("one", 20_000), layer("two", 1000));
    for archive in [
        tar_of(&docker(&json!(["app"]), &[&one, &two], ""), &[]),
        tar_of(&oci(Some("app"), &[(&one, gzip(&one)), (&two, gzip(&two))], "").0, &[]),
    ] {
        // The last entry ends before the two blocks of zeros.
        let end = archive.len() - 1024 - 512;
        for point in 0..64 {
            let cut = &archive[..end * point / 64];
            for source in [in_file(cut), in_stream(cut)] {
                let home = Home::new();
                assert!(home.load(source).is_err(), "cut at {} of {}", cut.len(), archive.len());
                assert_eq!(home.content(), BTreeSet::new(), "cut at {}", cut.len());
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_content_never_goes_unseen() {
    let (one, two) = (layer("one", 20_000), layer("two", 1000));
    let files = oci(Some("app"), &[(&one, gzip(&one)), (&two, two.clone())], "").0;
    let mut state = 1_u64;
    for round in 0..200 {
        // A fixed walk of a linear generator: the same places each time.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut files = files.clone();
        let blobs = files.len() - 2;
        let file = &mut files[2 + usize::try_from(state >> 33).unwrap() % blobs].1;
        let place = usize::try_from(state >> 20).unwrap() % file.len();
        file[place] ^= 1 << (state >> 60 & 7);
        let archive = tar_of(&files, &[]);
        let home = Home::new();
        let source = if round % 2 == 0 { in_file(&archive) } else { in_stream(&archive) };
        assert!(home.load(source).is_err(), "round {round}");
        assert_eq!(home.content(), BTreeSet::new(), "round {round}");
    }
}

#[test]
fn a_folder_that_is_no_layout_and_a_layout_with_odd_files_are_refused() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let load = |path: &Path| home.load(Source::Folder(path.to_owned()));
    assert!(matches!(load(folder.path()), Err(TransferError::NoImage)));
    assert!(load(&folder.path().join("missing")).is_err());
    let plain = layer("one", 10);
    let (files, _) = oci(Some("app"), &[(&plain, gzip(&plain))], "");
    in_folder(&files, folder.path());
    let blob = folder.path().join(&files[2].0);
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &blob).unwrap();
    assert!(matches!(load(folder.path()), Err(TransferError::Missing { .. })));
    std::fs::remove_file(&blob).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &blob, rustix::fs::Mode::RUSR).unwrap();
    assert!(load(folder.path()).is_err());
    assert_eq!(home.content(), BTreeSet::new());
    drop(File::open(home.folder.path()).unwrap());
}
