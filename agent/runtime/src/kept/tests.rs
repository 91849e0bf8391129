//! What lies in the folder of compiled programs is believed only where this node has sealed it.

use std::time::Duration;

use super::*;
use crate::{artifact, sandbox::Sandbox};

/// The least that is a program.
fn idle() -> Vec<u8> {
    // Read and not included: images are built without the tests' folder.
    let fuzz = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz");
    wat::parse_file(format!("{fuzz}/examples/components/idle.wat")).unwrap()
}

struct Home {
    folder: tempfile::TempDir,
    sandbox: Sandbox,
    component: Component,
    digest: Sha256,
}

impl Home {
    fn new() -> Self {
        let bytes = idle();
        let sandbox = Sandbox::new().unwrap();
        let component =
            artifact::compile(&sandbox.engine, &artifact::read(&bytes).unwrap()).unwrap();
        let digest = artifact::digest(&bytes);
        Self { folder: tempfile::tempdir().unwrap(), sandbox, component, digest }
    }

    fn kept(&self, key: &str) -> Kept {
        let path = self.folder.path();
        Kept::open(&path.join("compiled"), &path.join(key)).unwrap()
    }

    fn identity(&self) -> Identity {
        Identity::of(&self.sandbox.engine, self.digest)
    }

    fn put(&self, kept: &Kept) -> PathBuf {
        kept.put(&self.sandbox.engine, self.digest, &self.component);
        kept.folder.join(kept.name(&Identity::of(&self.sandbox.engine, self.digest)))
    }

    fn is_taken(&self, kept: &Kept) -> bool {
        kept.get(&self.sandbox.engine, self.digest).is_some()
    }
}

#[test]
fn what_was_compiled_is_taken_again_after_a_restart() {
    let home = Home::new();
    assert!(!home.is_taken(&home.kept("key")));
    home.put(&home.kept("key"));
    assert!(home.is_taken(&home.kept("key")));
    let again = home.kept("key").get(&home.sandbox.engine, home.digest).unwrap();
    let types = again.component_type();
    assert!(types.get_export(&home.sandbox.engine, "realm:tenant/handler@0.1.0").is_some());
}

#[test]
fn machine_code_that_somebody_put_into_the_folder_is_not_run() {
    let home = Home::new();
    let kept = home.kept("key");
    let path = home.put(&kept);
    let sealed = fs::read(&path).unwrap();
    let (seal, code) = sealed.split_at(SEAL_BYTES);
    let mut forged: Vec<Vec<u8>> = vec![
        Vec::new(),
        seal.to_vec(),
        code.to_vec(),
        [&[0; SEAL_BYTES][..], code].concat(),
        sealed.iter().copied().chain([0]).collect(),
        sealed.get(..sealed.len() - 1).unwrap().to_vec(),
    ];
    for at in (0..sealed.len()).step_by(sealed.len() / 50) {
        let mut changed = sealed.clone();
        *changed.get_mut(at).unwrap() ^= 1;
        forged.push(changed);
    }
    for bytes in forged {
        fs::write(&path, bytes).unwrap();
        assert!(!home.is_taken(&kept));
        assert!(!path.exists(), "it is compiled anew");
    }
    fs::write(&path, &sealed).unwrap();
    assert!(home.is_taken(&kept));
}

#[test]
fn what_another_node_or_another_component_was_sealed_for_is_not_taken() {
    let home = Home::new();
    let kept = home.kept("key");
    let path = home.put(&home.kept("key of another"));
    fs::rename(path, kept.folder.join(kept.name(&home.identity()))).unwrap();
    assert!(!home.is_taken(&kept));

    let path = home.put(&kept);
    let other = Sha256([7; 32]);
    let renamed = kept.folder.join(kept.name(&Identity::of(&home.sandbox.engine, other)));
    fs::rename(path, renamed).unwrap();
    assert!(kept.get(&home.sandbox.engine, other).is_none());

    let path = home.put(&kept);
    let plain = Engine::default();
    let renamed = kept.folder.join(kept.name(&Identity::of(&plain, home.digest)));
    assert_ne!(path, renamed);
    fs::rename(path, renamed).unwrap();
    assert!(kept.get(&plain, home.digest).is_none(), "it was compiled with other settings");
}

#[test]
fn two_keys_that_share_a_folder_both_keep_what_is_theirs() {
    let home = Home::new();
    let (one, other) = (home.kept("key"), home.kept("key of another"));
    let paths = [home.put(&one), home.put(&other)];
    for kept in [&one, &other, &one] {
        assert!(home.is_taken(kept));
    }
    assert!(paths.iter().all(|path| path.exists()));
}

#[test]
fn a_key_that_is_there_is_kept_and_nobody_elses_to_read() {
    use std::os::unix::fs::PermissionsExt as _;

    let home = Home::new();
    let path = home.folder.path().join("key");
    let keys = [home.kept("key").key, home.kept("key").key];
    assert_eq!(keys[0], keys[1]);
    assert_ne!(keys[0], home.kept("another").key);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(&path, b"short").unwrap();
    assert_ne!(home.kept("key").key, keys[0]);
}

#[test]
fn what_was_used_longest_ago_makes_room() {
    let home = Home::new();
    let mut kept = home.kept("key");
    let size = fs::metadata(home.put(&kept)).unwrap().len();
    kept.bytes_max = 2 * size + size / 2;
    let names: Vec<_> = (1..4_u8).map(|number| Sha256([number; 32])).collect();
    fs::remove_file(home.put(&kept)).unwrap();
    for (age, name) in names.iter().enumerate() {
        kept.put(&home.sandbox.engine, *name, &home.component);
        let path = kept.folder.join(kept.name(&Identity::of(&home.sandbox.engine, *name)));
        let at = SystemTime::now() - Duration::from_secs(100 - u64::try_from(age).unwrap());
        File::open(path).unwrap().set_modified(at).unwrap();
        // Once two are there, the older one has just been used.
        if age == 1 {
            kept.get(&home.sandbox.engine, *names.first().unwrap()).unwrap();
        }
    }
    let there = |name: &Sha256| kept.get(&home.sandbox.engine, *name).is_some();
    assert_eq!(names.iter().map(there).collect::<Vec<_>>(), [true, false, true]);
}
