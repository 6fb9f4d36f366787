//! Image config and options → argv, environment, working directory. Pure.
//!
//! May touch: its arguments. Knows nothing of disk, users, the sandbox.

use store::ImagePath;
use store::oci::config::ContainerConfig;

use super::{ContainerError, RunOptions};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The words to execute: entrypoint, then command. A new entrypoint drops the image's command.
pub(super) fn argv(config: &ContainerConfig, options: &RunOptions) -> Result<Vec<String>, ContainerError> {
    let own = options.entrypoint.is_some();
    let mut argv = options.entrypoint.clone().or_else(|| config.entrypoint.clone()).unwrap_or_default();
    match &config.cmd {
        _ if !options.command.is_empty() => argv.extend(options.command.iter().cloned()),
        Some(cmd) if !own => argv.extend(cmd.iter().cloned()),
        _ => {}
    }
    match argv.first() {
        None => Err(ContainerError::NoCommand),
        Some(program) if program.is_empty() => Err(ContainerError::EmptyProgram),
        Some(_) if argv.iter().any(|word| word.contains('\0')) => Err(ContainerError::Nul("the command")),
        Some(_) => Ok(argv),
    }
}

/// The environment but for `HOME`: defaults, over them the image's, over them the options'.
///
/// An entry of the image without a `=` names a variable of the host in some tools, and is nothing here.
pub(super) fn env(
    config: &ContainerConfig,
    options: &RunOptions,
    hostname: &str,
) -> Result<Vec<String>, ContainerError> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}"), "container=rbuild".to_owned()];
    if options.terminal {
        env.push("TERM=xterm".to_owned());
    }
    let is_whole = |entry: &&String| entry.find('=').is_some_and(|place| place > 0) && !entry.contains('\0');
    for entry in config.env.iter().filter(is_whole) {
        set(&mut env, entry);
    }
    for entry in &options.env {
        if !is_whole(&entry) {
            return Err(ContainerError::BadVariable(entry.escape_debug().to_string()));
        }
        set(&mut env, entry);
    }
    Ok(env)
}

/// Replaces the variable that `entry` names, in its place, or adds it.
fn set(env: &mut Vec<String>, entry: &str) {
    let name = |entry: &str| entry.split('=').next().map(str::to_owned);
    match env.iter_mut().find(|known| name(known) == name(entry)) {
        Some(known) => entry.clone_into(known),
        None => env.push(entry.to_owned()),
    }
}

pub(super) fn has_variable(env: &[String], name: &str) -> bool {
    env.iter().any(|entry| entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('=')))
}

/// `-w`, else the image's `WORKDIR`, else the root.
pub(super) fn working_dir(
    config: &ContainerConfig,
    options: &RunOptions,
) -> Result<ImagePath, ContainerError> {
    match &options.working_dir {
        Some(dir) if !dir.starts_with('/') => Err(ContainerError::RelativeWorkingDir(dir.clone())),
        Some(dir) if dir.contains('\0') => Err(ContainerError::Nul("the working directory")),
        Some(dir) => Ok(ImagePath::new(dir)),
        None => Ok(ImagePath::new(&config.working_dir)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn entrypoint_and_command_combine_as_dockers_do() {
        // image's entrypoint, image's cmd, --entrypoint, command given, what comes out
        for (entrypoint, cmd, own, command, expected) in [
            (None, Some("sh"), None, "", Some("sh")),
            (None, Some("sh"), None, "ls -l", Some("ls -l")),
            (Some("tini --"), Some("sh"), None, "", Some("tini -- sh")),
            (Some("tini --"), Some("sh"), None, "ls", Some("tini -- ls")),
            (Some("tini --"), Some("sh"), Some("env"), "", Some("env")),
            (Some("tini --"), Some("sh"), Some("env"), "-i", Some("env -i")),
            (Some("tini --"), Some("sh"), Some(""), "ls", Some("ls")),
            (Some("tini --"), Some("sh"), Some(""), "", None),
            (None, None, None, "", None),
        ] {
            let config = ContainerConfig {
                entrypoint: entrypoint.map(words),
                cmd: cmd.map(words),
                ..ContainerConfig::default()
            };
            let options =
                RunOptions { entrypoint: own.map(words), command: words(command), ..RunOptions::default() };
            assert_eq!(
                argv(&config, &options).ok(),
                expected.map(words),
                "{entrypoint:?} {cmd:?} {own:?} {command}"
            );
        }
    }

    #[test]
    fn what_can_not_be_executed_is_refused() {
        let given = |command: &[&str]| RunOptions {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            ..RunOptions::default()
        };
        for command in [&[""][..], &["a\0b"], &["sh", "a\0b"]] {
            assert!(argv(&ContainerConfig::default(), &given(command)).is_err(), "{command:?}");
        }
    }

    #[test]
    fn the_image_sets_over_defaults_and_the_user_over_the_image() {
        let config = ContainerConfig {
            env: ["PATH=/image", "A=1", "B=2", "HOST_SECRET", "*", "=x", "C="].map(str::to_owned).to_vec(),
            ..ContainerConfig::default()
        };
        let options = RunOptions {
            env: ["B=3", "HOSTNAME=mine", "D=a=b"].map(str::to_owned).to_vec(),
            terminal: true,
            ..RunOptions::default()
        };
        let env = env(&config, &options, "box").unwrap();
        let expected =
            ["PATH=/image", "HOSTNAME=mine", "container=rbuild", "TERM=xterm", "A=1", "B=3", "C=", "D=a=b"];
        assert_eq!(env, expected);
        assert!(has_variable(&env, "C") && !has_variable(&env, "HO"));
    }

    #[test]
    fn a_variable_of_the_user_must_be_whole() {
        for bad in ["A", "=x", "", "A=\0"] {
            let options = RunOptions { env: vec![bad.to_owned()], ..RunOptions::default() };
            assert!(env(&ContainerConfig::default(), &options, "box").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_working_dir_is_absolute() {
        let config = ContainerConfig { working_dir: "srv/./x".to_owned(), ..ContainerConfig::default() };
        let given =
            |dir: Option<&str>| RunOptions { working_dir: dir.map(str::to_owned), ..RunOptions::default() };
        assert_eq!(working_dir(&config, &given(None)).unwrap(), ImagePath::new("/srv/x"));
        assert_eq!(working_dir(&config, &given(Some("/a/../b"))).unwrap(), ImagePath::new("/b"));
        assert!(working_dir(&config, &given(Some("a"))).is_err());
    }
}
