//! Many VMs at once.

use banger_api::DeleteOptions;
use std::time::{Duration, Instant};

use banger_model::VmState;

use crate::ground::{Ground, done, running};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_lives_side_by_side_all_succeed_and_leave_nothing() {
    const WORKERS: u32 = 16;
    const ROUNDS: u32 = 5;
    let ground = Ground::with_guests();
    let daemon = ground.start();
    let client = &daemon.client;
    done(client, client.create_vm(&running("warm")).await)
        .await
        .unwrap();
    done(
        client,
        client.delete_vm("warm", DeleteOptions::default()).await,
    )
    .await
    .unwrap();
    let files = ground.files();
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let client = client.clone();
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    let name = format!("vm-{worker}-{round}");
                    done(&client, client.create_vm(&running(&name)).await).await?;
                    done(&client, client.restart_vm(&name).await).await?;
                    done(&client, client.stop_vm(&name).await).await?;
                    done(
                        &client,
                        client.delete_vm(&name, DeleteOptions::default()).await,
                    )
                    .await?;
                }
                Ok::<(), banger_model::Error>(())
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap().unwrap();
    }
    assert!(client.vms().await.unwrap().is_empty());
    assert_eq!(ground.files(), files);
    assert_eq!(ground.processes(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_is_killed_again_and_again_finds_every_vm() {
    const VMS: usize = 40;
    let ground = Ground::with_guests();
    let mut daemon = ground.start();
    let begun: Vec<_> = (0..VMS)
        .map(|number| {
            let client = daemon.client.clone();
            let request = running(&format!("vm-{number}"));
            tokio::spawn(async move { done(&client, client.create_vm(&request).await).await })
        })
        .collect();
    for created in begun {
        created.await.unwrap().unwrap();
    }
    let shown = async |daemon: &crate::ground::Daemon| {
        let vms = daemon.client.vms().await.unwrap();
        vms.into_iter()
            .map(|vm| {
                (
                    vm.name,
                    vm.state,
                    vm.pid,
                    vm.boot_id,
                    vm.started_at.is_some(),
                )
            })
            .collect::<Vec<_>>()
    };
    let before = shown(&daemon).await;
    assert_eq!(before.len(), VMS);
    assert!(before.iter().all(|vm| vm.1 == VmState::Running));
    for _ in 0..10 {
        daemon.kill();
        let begun = Instant::now();
        daemon = ground.start();
        assert_eq!(shown(&daemon).await, before);
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
    for (name, ..) in before {
        let deleted = daemon
            .client
            .delete_vm(&name, DeleteOptions::default())
            .await;
        done(&daemon.client, deleted).await.unwrap();
    }
    assert_eq!(ground.processes(), [0; 0]);
}
