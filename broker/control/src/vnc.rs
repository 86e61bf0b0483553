//! Commands for the VNC server (qapi/ui.json).
use crate::clients::CallError;
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::{DeviceConfig, MachinePlan, Slot, VncAddress};
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError};

/// The server's slot, its listening address, and whether it requires a password.
fn server(plan: &MachinePlan) -> Option<(Slot, &VncAddress, bool)> {
    plan.devices.iter().find_map(|d| match &d.config {
        DeviceConfig::Vnc { at, password, .. } => Some((d.slot, at, *password)),
        _ => None,
    })
}

/// Sends the password to a new process if it is the restarted server.
pub(crate) fn restore_password(shared: &Arc<Shared>, slot: Slot) {
    let password = shared.vnc_password.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(password) = password.filter(|_| server(&shared.plan).is_some_and(|s| s.0 == slot)) else { return };
    let clients = shared.clients.clone();
    tokio::spawn(async move {
        if let Err(e) = clients.call(slot, Call::SetPassword(v1::Password { password })).await {
            tracing::warn!("the VNC server's password: {e}");
        }
    });
}

/// A connected viewer, as VncClientInfo. A viewer at a Unix socket has neither host nor service.
fn viewer(viewer: &v1::Viewer) -> Value {
    let (family, service) = match viewer.family() {
        v1::Family::Unix => ("unix", String::new()),
        v1::Family::Ipv4 => ("ipv4", viewer.port.to_string()),
        v1::Family::Ipv6 => ("ipv6", viewer.port.to_string()),
    };
    json!({ "family": family, "host": viewer.host, "service": service, "websocket": false })
}

impl Shared {
    /// query-vnc.
    pub(crate) async fn query_vnc(&self) -> Outcome {
        let Some((slot, at, password)) = server(&self.plan) else { return Ok(json!({ "enabled": false })) };
        let (family, host, service) = match at {
            VncAddress::Tcp { host, port, ipv6 } => {
                (if *ipv6 { "ipv6" } else { "ipv4" }, host.clone(), port.to_string())
            }
            VncAddress::Unix(path) => ("unix", String::new(), path.clone()),
        };
        let viewers = match self.clients.get(slot) {
            Some(_) => self.clients.facts(slot).await.unwrap_or_default().viewers,
            None => Vec::new(),
        };
        let clients: Vec<Value> = viewers.iter().map(viewer).collect();
        Ok(json!({
            "enabled": true,
            "family": family,
            "host": host,
            "service": service,
            "auth": if password { "vnc" } else { "none" },
            "clients": clients,
        }))
    }

    /// change-vnc-password: {"password": "…"}; set_password: {"protocol": "vnc", "password": "…"}.
    pub(crate) async fn set_vnc_password(&self, arguments: &Value) -> Outcome {
        if arguments.get("protocol").is_some_and(|p| p != "vnc") {
            return Err(QmpError::generic("the protocol is vnc"));
        }
        let password = arguments
            .get("password")
            .and_then(Value::as_str)
            .ok_or_else(|| QmpError::generic("Parameter 'password' is missing"))?;
        let (slot, _, asks) = server(&self.plan).ok_or_else(|| QmpError::generic("there is no VNC server"))?;
        if !asks {
            return Err(QmpError::generic("the VNC server was started without password=on"));
        }
        let password = password.as_bytes().to_vec();
        *self.vnc_password.lock().unwrap_or_else(PoisonError::into_inner) = Some(password.clone());
        self.clients.call(slot, Call::SetPassword(v1::Password { password })).await.map_err(|e| match e {
            CallError::NotRunning => {
                QmpError::generic("the VNC server does not run; it will have the password when it does")
            }
            e => QmpError::generic(e.to_string()),
        })?;
        Ok(json!({}))
    }
}
