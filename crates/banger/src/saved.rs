//! What is said about work that is saved before its machine is deleted.

use banger_api::{Operation, SavedWork, Vm};

use crate::ui::Ui;

/// Says where work was saved that was in a machine which is gone now, and how it comes back.
pub(crate) fn say_saved(ui: &Ui, operation: &Operation) {
    if let Some(saved) = &operation.saved {
        let (text, hint) = lines(&operation.subject, saved);
        ui.warn(&text, &hint);
    }
}

/// What becomes of the work in these machines when they are deleted, a line each.
pub(crate) fn foretell(vms: &[Vm], discard: bool) -> String {
    let fate = match discard {
        true => "lost",
        false => "saved there first",
    };
    vms.iter()
        .filter_map(|vm| {
            let workspace = vm.workspace.as_ref()?;
            let (name, repository) = (&vm.name, &workspace.repository);
            Some(format!(
                "`{name}` has a workspace of `{repository}`: work that was not exported is {fate}\n"
            ))
        })
        .collect()
}

fn lines(name: &str, saved: &SavedWork) -> (String, String) {
    let work = format!("`{name}` is gone, and held work that was not exported");
    let repository = &saved.repository;
    let commits = match &saved.bundle {
        Some(bundle) => format!("; commits of other branches are in `{bundle}`"),
        None => String::new(),
    };
    let nested = match &saved.archive {
        Some(archive) => format!("; repositories inside the workspace are in `{archive}`"),
        None => String::new(),
    };
    let text = match (&saved.reference, &saved.patch) {
        (Some(reference), _) => format!("{work}: it is saved as `{reference}` in `{repository}`"),
        (None, Some(patch)) => {
            let because = saved
                .because
                .as_deref()
                .unwrap_or("the repository is not there");
            format!("{work}: it is saved in `{patch}`, because {because}")
        }
        (None, None) => work,
    };
    (
        text + &commits + &nested,
        format!("get it back with `{}`", saved.restore),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::example;

    fn saved() -> SavedWork {
        SavedWork {
            repository: "/r".into(),
            reference: Some("refs/banger/box/1".into()),
            patch: None,
            bundle: None,
            archive: None,
            because: None,
            restore: "git -C /r cherry-pick --no-commit refs/banger/box/1".into(),
        }
    }

    #[test]
    fn the_place_and_the_way_back_are_named() {
        let (text, hint) = lines("box", &saved());
        assert!(text.contains("`refs/banger/box/1` in `/r`"), "{text}");
        assert!(hint.contains("cherry-pick"), "{hint}");
        let patch = SavedWork {
            reference: None,
            patch: Some("/s/box.patch".into()),
            because: Some("`/r` does not exist".into()),
            restore: "git -C /r apply /s/box.patch".into(),
            ..saved()
        };
        let (text, hint) = lines("box", &patch);
        assert!(
            text.contains("`/s/box.patch`, because `/r` does not exist"),
            "{text}"
        );
        assert!(hint.contains("apply /s/box.patch"), "{hint}");
        let inside = SavedWork {
            reference: None,
            archive: Some("/s/box.tar".into()),
            ..saved()
        };
        let (text, _) = lines("box", &inside);
        assert!(text.contains("workspace are in `/s/box.tar`"), "{text}");
    }

    #[test]
    fn only_machines_with_a_workspace_are_spoken_of() {
        let without = Vm {
            workspace: None,
            ..example()
        };
        assert_eq!(foretell(std::slice::from_ref(&without), false), "");
        let record = r#"{"repository": "/r", "guest_path": "/root/repo", "mode": "overlay",
            "fingerprint": "f", "copied_at": "2026-01-01T00:00:00Z", "complete": true}"#;
        let with = Vm {
            workspace: Some(serde_json::from_str(record).unwrap()),
            ..without
        };
        let kept = foretell(std::slice::from_ref(&with), false);
        assert!(
            kept.contains("`box`") && kept.contains("saved there first"),
            "{kept}"
        );
        assert!(foretell(&[with], true).contains("lost"));
    }
}
