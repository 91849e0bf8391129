//! The files of the folder.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

use super::{Cause, Found, ManifestProblem, Place, Reading, document};

/// Files in one folder: what a person can still find their way in.
const FILES_MAX: usize = 1024;

/// Bytes of one file: as much as the API server takes of one object, plus half as much again.
const FILE_BYTES_MAX: u64 = 3 << 19;

/// Documents of one file: an object takes about a dozen lines, so such a file has ten thousand.
const DOCUMENTS_MAX: usize = 1024;

/// Reads `*.yaml` and `*.yml` in `dir`, in the order of their names. It waits for the disk.
pub(crate) fn read(dir: &Path) -> Reading {
    let mut reading = Reading::default();
    match list(dir) {
        Ok(files) => {
            for (file, path) in files {
                read_file(&file, &path, &mut reading);
            }
        }
        Err(cause) => {
            let file = dir.display().to_string().into();
            reading.problems.push(ManifestProblem { file, line: None, cause });
            reading.is_unclear = true;
        }
    }
    reading
}

fn list(dir: &Path) -> Result<Vec<(Arc<str>, PathBuf)>, Cause> {
    let unreadable = |error: io::Error| Cause::Unreadable(error.to_string());
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_yaml = path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml");
        // A leading dot marks editors' own files, and what a mounted ConfigMap links to.
        if is_yaml && !name.starts_with('.') && !path.is_dir() {
            if files.len() >= FILES_MAX {
                return Err(Cause::TooManyFiles { files_max: FILES_MAX });
            }
            files.push((Arc::from(name.as_ref()), path.clone()));
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(file: &Arc<str>, path: &Path, reading: &mut Reading) {
    match read_text(path) {
        Ok(None) => {}
        Ok(Some(text)) => read_documents(file, &text, reading),
        Err(cause) => {
            reading.problems.push(ManifestProblem { file: file.clone(), line: None, cause });
            reading.unclear.insert(file.clone());
        }
    }
}

/// The text of a file; `None` if it has gone since the folder was listed.
fn read_text(path: &Path) -> Result<Option<String>, Cause> {
    let unreadable = |error: io::Error| Cause::Unreadable(error.to_string());
    let file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unreadable)?,
    };
    // What is not a file may have no end, or keep its reader waiting for ever.
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(Cause::NotAFile);
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if FILE_BYTES_MAX < u64::try_from(bytes.len()).unwrap_or(u64::MAX) {
        return Err(Cause::FileTooLarge { bytes_max: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Cause::NotText)
}

fn open(path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for its writer.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

fn read_documents(file: &Arc<str>, text: &str, reading: &mut Reading) {
    let documents = document::split(text);
    if DOCUMENTS_MAX < documents.len() {
        let cause = Cause::TooManyDocuments { documents_max: DOCUMENTS_MAX };
        reading.problems.push(ManifestProblem { file: file.clone(), line: None, cause });
        reading.unclear.insert(file.clone());
        return;
    }
    for (lines_before, text) in documents {
        let found = document::parse(Place { file: file.clone(), lines_before }, text);
        if let Some(Found::Unnamed(_)) = found {
            reading.unclear.insert(file.clone());
        }
        reading.found.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, process::Command, sync::mpsc, thread, time::Duration};

    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        dir
    }

    fn check(files: &[(&str, &[u8])], expected: &[&str]) -> Reading {
        let reading = read(folder(files).path());
        let problems: Vec<_> = reading.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems, expected);
        reading
    }

    const MODEL: &[u8] = b"apiVersion: realm.dev/v1alpha1\nkind: Model\nmetadata: {name: tiny}\nspec: {sources: ['file:///tiny.gguf']}\n";

    #[test]
    fn only_yaml_files_of_the_folder_itself_are_read() {
        let reading =
            check(&[("b.yml", MODEL), ("a.yaml", MODEL), (".c.yaml", b"]"), ("d.txt", b"]")], &[]);
        let files: Vec<_> = reading
            .found
            .iter()
            .map(|found| match found {
                Found::Whole(document) => document.place.file.as_ref(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(files, ["a.yaml", "b.yml"]);
    }

    #[test]
    fn a_file_that_is_no_text_or_too_large_is_refused_by_name() {
        let large = vec![b'#'; 3 << 19 | 1];
        let reading = check(
            &[("binary.yaml", b"\xff\xfe"), ("large.yaml", &large), ("good.yaml", MODEL)],
            &[
                "binary.yaml: is not UTF-8 text (NotText)",
                "large.yaml: has more than 1572864 bytes (FileTooLarge)",
            ],
        );
        assert_eq!(reading.found.len(), 1);
        assert_eq!(reading.unclear.len(), 2);
        assert!(!reading.is_unclear);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_by_name_and_holds_nobody_up() {
        let dir = folder(&[("good.yaml", MODEL)]);
        let made = Command::new("mkfifo").arg(dir.path().join("pipe.yaml")).status();
        assert!(made.unwrap().success());
        symlink("/dev/zero", dir.path().join("endless.yaml")).unwrap();
        // A thread of its own, which the end of the test does not wait for.
        let (tell, told) = mpsc::sync_channel(1);
        let path = dir.path().to_owned();
        thread::spawn(move || tell.send(read(&path)));
        let reading = told.recv_timeout(Duration::from_mins(1)).expect("read within a minute");
        let problems: Vec<_> = reading.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "endless.yaml: is not a regular file (NotAFile)",
                "pipe.yaml: is not a regular file (NotAFile)",
            ]
        );
        assert_eq!((reading.found.len(), reading.unclear.len()), (1, 2));
    }

    #[test]
    fn too_many_documents_are_refused() {
        let many = "---\n".repeat(DOCUMENTS_MAX + 1);
        let reading = check(
            &[("many.yaml", many.as_bytes())],
            &["many.yaml: has more than 1024 documents (TooManyDocuments)"],
        );
        assert!(reading.unclear.contains("many.yaml"));
    }

    #[test]
    fn a_folder_that_is_not_there_leaves_everything_unclear() {
        let reading = read(Path::new("/nowhere/at/all"));
        assert!(reading.is_unclear);
        assert_eq!(reading.problems[0].cause.reason(), "Unreadable");
    }
}
